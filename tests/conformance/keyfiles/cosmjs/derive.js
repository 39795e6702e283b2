// Mnemonics by CosmJS: reads one request a line, {"mnemonic", "passphrase", "path"}, and answers one a line with what
// CosmJS derives. Without a mnemonic it makes one of `words` words.
import { Bip39, EnglishMnemonic, Random, Secp256k1, Slip10, Slip10Curve, stringToPath } from "@cosmjs/crypto";
import { toHex } from "@cosmjs/encoding";
import { DirectSecp256k1HdWallet } from "@cosmjs/proto-signing";
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const bytes = (request.words / 3) * 4;
  const text = request.mnemonic ?? Bip39.encode(Random.getBytes(bytes)).toString();
  const path = stringToPath(request.path);
  const seed = await Bip39.mnemonicToSeed(new EnglishMnemonic(text), request.passphrase);
  const { privkey } = Slip10.derivePath(Slip10Curve.Secp256k1, seed, path);
  const { pubkey } = await Secp256k1.makeKeypair(privkey);
  const wallet = await DirectSecp256k1HdWallet.fromMnemonic(text, {
    bip39Password: request.passphrase,
    hdPaths: [path],
    prefix: request.prefix,
  });
  const [{ address }] = await wallet.getAccounts();
  const answer = {
    mnemonic: text,
    private_key: toHex(privkey),
    public_key: toHex(Secp256k1.compressPubkey(pubkey)),
    address,
  };
  console.log(JSON.stringify(answer));
}
