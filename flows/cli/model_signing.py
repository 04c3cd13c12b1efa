"""Commands of `stillhouse model` about signatures: make a key pair, sign a version."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.model_arguments import AsJson, Reference


def keygen(
    private: Annotated[Path, typer.Argument(metavar="FILE", help="Private key to write; readable by you alone.")],
    public: Annotated[
        Path | None, typer.Option("--public", help="Public key to write. Default: FILE with the ending .pub.pem.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an Ed25519 key pair that signs models."""
    from flows.cli.console import console, print_json
    from tasks.adapters.signing_keys import make_key_pair

    public = public or private.with_name(f"{private.name.removesuffix('.pem')}.pub.pem")
    key_id = make_key_pair(private, public)
    if as_json:
        print_json({"key_id": key_id, "private": str(private), "public": str(public)})
        return
    console().print(f"key {key_id}")
    console().print(f"{private}: keep it where models are registered, as STILLHOUSE_SIGNING_KEY")
    console().print(f"{public}: give it to gateways, in the folder that STILLHOUSE_VERIFY_KEYS names")


def sign(model: Reference, as_json: AsJson = False) -> None:
    """Sign a registered version with STILLHOUSE_SIGNING_KEY, as registering does; again after a change of keys."""
    from flows.cli.console import console, print_json
    from flows.cli.model_reference import find_model
    from tasks.contracts.errors import UserError
    from tasks.runtime.services import connect
    from tasks.stages.signing import sign as sign_version

    services = connect()
    found = find_model(services, model)
    if found.registered is None:
        raise UserError("a signature is of an artifact under a model's name; name the version as NAME@alias or NAME/3")
    key_id = sign_version(services, found.registered.name, found.digest)
    if as_json:
        print_json({"name": found.registered.name, "digest": found.digest, "key_id": key_id})
    else:
        console().print(
            f"{found.registered.name}, version {found.registered.version} ({found.digest[:12]}): signed by key {key_id}"
        )
