import datetime
import ipaddress
import logging
import ssl

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.gateway.tls import Tls, TlsError


def write_pair(folder, name="pair", password=None):
    """A self-signed certificate for 127.0.0.1 and its key; return (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    return paths


def test_tls_is_refused_with_the_name_of_the_file_when_a_pair_is_wrong(tmp_path):
    cert, key = write_pair(tmp_path)
    _, other = write_pair(tmp_path, "other")
    _, sealed = write_pair(tmp_path, "sealed", b"secret")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for pair, message in [
        ((tmp_path / "none.pem", key), r"none\.pem: No such file"),
        ((cert, tmp_path / "none-key.pem"), r"none-key\.pem: No such file"),
        ((cert, other), r"other-key\.pem is not the key of the certificate .*pair\.pem"),
        ((rubbish, key), "rubbish.*not a certificate"),
        ((cert, rubbish), "rubbish.*not a certificate"),
        ((cert, sealed), r"sealed-key\.pem has a password"),
        ((key, cert), "not a certificate"),
    ]:
        with pytest.raises(TlsError, match=message):
            Tls(*pair)


def test_a_gateway_with_a_certificate_answers_over_tls_alone_and_takes_a_renewed_one(
    start, site, models, make_body, tmp_path, caplog
):
    cert, key = write_pair(tmp_path)
    trusted = ssl.create_default_context(cafile=str(cert))
    gateway = start(client_options={"verify": trusted}, tls_cert=cert, tls_key=key)
    site.wait_for(site.route(site.put(models.linear())))
    url = gateway.server.url
    assert url.startswith("https://127.0.0.1:")
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(gateway.infer(x).json()["outputs"][0]["data"], models.expected(x)[0], rtol=1e-5)
    assert not answers(url, True)
    assert not answers(url.replace("https", "http"), True)

    cert.write_text("rubbish")
    with caplog.at_level(logging.ERROR):
        gateway.server.reload()
    assert "the certificate stays as it was" in caplog.text
    assert answers(url, trusted)

    write_pair(tmp_path)
    gateway.server.reload()
    assert not answers(url, trusted)
    assert answers(url, ssl.create_default_context(cafile=str(cert)))


def answers(url, verify):
    with httpx.Client(base_url=url, verify=verify, trust_env=False) as client:
        try:
            return client.get("/v2/health/live").status_code == 200
        except httpx.TransportError:
            return False
