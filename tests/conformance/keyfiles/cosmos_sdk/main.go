// The Cosmos SDK itself, as the other side of popsigner.keyfiles. The JSON files beside this one were made with it, and
// what popsigner.keyfiles writes was read with it. Releases 0.50 to 0.55:
//
//	go mod init keyfiles
//	go mod edit -require=github.com/cosmos/cosmos-sdk@v0.55.0 -replace=github.com/99designs/keyring=github.com/cosmos/keyring@v1.2.0
//	go mod tidy && go build -o keyfiles .
//	keyfiles make HOME name=hex...     two keyrings in an empty folder, and exports, as JSON
//	keyfiles read HOME test|file       the private key of each entry of a keyring, as JSON
//	keyfiles unarmor FILE PASSPHRASE   the private key of an export
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	dkeyring "github.com/99designs/keyring"
	"github.com/cosmos/cosmos-sdk/codec"
	codectypes "github.com/cosmos/cosmos-sdk/codec/types"
	"github.com/cosmos/cosmos-sdk/crypto"
	cryptocodec "github.com/cosmos/cosmos-sdk/crypto/codec"
	"github.com/cosmos/cosmos-sdk/crypto/hd"
	"github.com/cosmos/cosmos-sdk/crypto/keyring"
	"github.com/cosmos/cosmos-sdk/crypto/keys/multisig"
	"github.com/cosmos/cosmos-sdk/crypto/keys/secp256k1"
	cryptotypes "github.com/cosmos/cosmos-sdk/crypto/types"
)

const passphrase = "correct horse battery staple"

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func open(backend, home string) (keyring.Keyring, codec.Codec) {
	registry := codectypes.NewInterfaceRegistry()
	cryptocodec.RegisterInterfaces(registry)
	cdc := codec.NewProtoCodec(registry)
	ring, err := keyring.New("popsigner", backend, home, strings.NewReader(strings.Repeat(passphrase+"\n", 2)), cdc)
	must(err)
	return ring, cdc
}

func fileRing(home string) dkeyring.Keyring {
	ring, err := dkeyring.Open(dkeyring.Config{AllowedBackends: []dkeyring.BackendType{dkeyring.FileBackend}, FileDir: filepath.Join(home, "keyring-test"),
		FilePasswordFunc: func(string) (string, error) { return "test", nil }})
	must(err)
	return ring
}

func scalar(text string) *secp256k1.PrivKey {
	bytes, err := hex.DecodeString(text)
	must(err)
	return &secp256k1.PrivKey{Key: bytes}
}

func main() {
	switch home := os.Args[2]; os.Args[1] {
	case "make":
		fill(home, os.Args[3:])
	case "read":
		show(home, os.Args[3])
	case "unarmor":
		text, err := os.ReadFile(home)
		must(err)
		key, algo, err := crypto.UnarmorDecryptPrivKey(string(text), os.Args[3])
		must(err)
		fmt.Println(algo, hex.EncodeToString(key.Bytes()))
	}
}

func fill(home string, pairs []string) {
	armors := map[string]string{}
	for _, backend := range []string{"test", "file"} {
		for _, pair := range pairs {
			name, key, _ := strings.Cut(pair, "=")
			ring, _ := open(backend, home)
			armors[name] = crypto.EncryptArmorPrivKey(scalar(key), passphrase, "secp256k1")
			must(ring.ImportPrivKey(name, armors[name], passphrase))
		}
	}
	others(home)
	files := map[string]string{}
	must(filepath.Walk(home, func(path string, info os.FileInfo, err error) error {
		if !info.IsDir() {
			content, err := os.ReadFile(path)
			must(err)
			name, _ := filepath.Rel(home, path)
			files[name] = string(content)
		}
		return nil
	}))
	must(json.NewEncoder(os.Stdout).Encode(map[string]any{"passphrase": passphrase, "armors": armors, "files": files}))
}

// others adds entries that have no private key. A Ledger is not at hand: its record is stored as the SDK stores it.
func others(home string) {
	ring, cdc := open("test", home)
	public := scalar(strings.Repeat("11", 32)).PubKey()
	_, err := ring.SaveOfflineKey("offline", public)
	must(err)
	second := scalar(strings.Repeat("12", 32)).PubKey()
	_, err = ring.SaveMultisig("multi", multisig.NewLegacyAminoPubKey(1, []cryptotypes.PubKey{public, second}))
	must(err)
	third := scalar(strings.Repeat("13", 32)).PubKey()
	record, err := keyring.NewLedgerRecord("ledger", third, hd.NewFundraiserParams(0, 118, 0))
	must(err)
	data, err := cdc.Marshal(record)
	must(err)
	must(fileRing(home).Set(dkeyring.Item{Key: "ledger.info", Data: data}))
}

func show(home, backend string) {
	found := map[string]string{}
	ring, _ := open(backend, home)
	records, err := ring.List()
	must(err)
	for _, record := range records {
		armor, err := ring.ExportPrivKeyArmor(record.Name, "t")
		if err != nil {
			found[record.Name] = err.Error()
			continue
		}
		key, _, err := crypto.UnarmorDecryptPrivKey(armor, "t")
		must(err)
		address, err := record.GetAddress()
		must(err)
		again, err := ring.KeyByAddress(address)
		must(err)
		if again.Name != record.Name {
			panic("the address leads to another entry")
		}
		found[record.Name] = hex.EncodeToString(key.Bytes())
	}
	must(json.NewEncoder(os.Stdout).Encode(found))
}
