"""The ready file: what a script or a service manager needs to know of a POP that serves, as JSON."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where a POP answers. public_url: for people's browsers. api_key: the owner's, at the first start only."""

    http: str
    grpc: str
    grpc_socket: str
    public_url: str
    organization: str
    api_key: str | None
    data_dir: Path

    def write(self, path: Path, processes: Mapping[str, int]) -> None:
        """Put the file there whole, at once and with mode 0600: whoever sees it can read all of it."""
        content: dict[str, object] = {
            "http": self.http,
            "grpc": self.grpc,
            "grpc_socket": self.grpc_socket,
            "public_url": self.public_url,
            "organization": self.organization,
        }
        if self.api_key is not None:
            content["api_key"] = self.api_key
        content |= {"data_dir": str(self.data_dir), "processes": dict(processes)}
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        fresh.replace(path)

    def greeting(self, *, seconds: float) -> str:
        """What is printed once the POP serves: addresses, the key (once), and a curl to paste."""
        key = self.api_key or "$POPSIGNER_API_KEY"
        header = f"-H 'content-type: application/json' -H \"x-api-key: {key}\""
        lines = [
            f"POPSigner serves after {seconds:.1f} s. Ctrl-C stops it.",
            "",
            f"  JSON, gRPC, gRPC-Web   {self.http}",
            f"  log-in pages           {self.public_url}/login",
            f"  gRPC, this machine     {self.grpc}",
            f"                         {self.grpc_socket}",
            f"  data directory         {self.data_dir}",
            f"  organization           {self.organization}",
        ]
        if self.api_key is not None:
            lines += [f"  owner API key          {self.api_key}", "", "The API key is shown this once: keep it."]
        else:
            lines += ["", "With the owner's API key in POPSIGNER_API_KEY:"]
        return "\n".join(
            [
                *lines,
                "",
                "Create a key and sign with it:",
                "",
                f"""  curl -sS {self.http}/v1/keys {header} -d '{{"name": "first-key"}}'; \\""",
                f"  curl -sS {self.http}/v1/sign/batch {header} \\",
                """    -d '{"requests": [{"key_id": "production/first-key", "data": "SGVsbG8sIHJvbGx1cA=="}]}'""",
                "",
            ]
        )
