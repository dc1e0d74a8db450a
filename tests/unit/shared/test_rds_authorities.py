"""The authorities of RDS's certificates are in the package, so that `verify-full` works without preparation."""

import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.data.renew_rds_authorities import FILE, roots
from shared.database import Tls
from tests.fakes import REPOSITORY
from tests.unit.variants import EVERYTHING, deployed, properties

SHIPPED = FILE.read_text(encoding="ascii")
NOW = time.time()


def certificate(name: str, unit: str = "Amazon RDS", issuer: str | None = None, days: int = 10) -> str:
    def named(common_name: str) -> x509.Name:
        return x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ])  # fmt: skip

    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.now(UTC) - timedelta(days=20)
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer or name))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=20 + days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-central-1", "ap-northeast-1"])
def test_the_roots_of_a_region_are_shipped_and_valid_for_long(region: str) -> None:
    in_ten_years = NOW + 10 * 365 * 24 * 3600
    names = {f"Amazon RDS {region} Root CA {kind} G1" for kind in ("RSA2048", "RSA4096", "ECC384")}
    assert names <= roots(SHIPPED, in_ten_years).keys()


def test_every_function_and_job_that_verifies_the_database_trusts_the_shipped_file() -> None:
    resources = deployed(EVERYTHING)
    variables = [f["Environment"]["Variables"] for f in properties(resources, "AWS::Lambda::Function").values()]
    variables += [
        {pair["Name"]: pair["Value"] for pair in job["ContainerProperties"]["Environment"]}
        for job in properties(resources, "AWS::Batch::JobDefinition").values()
    ]
    named = {environment["DATABASE_CA_FILE"] for environment in variables if "RDS_SECRET_ARN" in environment}
    assert named == {f"/var/task/{FILE.relative_to(REPOSITORY)}"}
    context = Tls(verify=True, ca_file=str(FILE)).context()
    assert isinstance(context, ssl.SSLContext)
    assert len(context.get_ca_certs()) == SHIPPED.count("BEGIN CERTIFICATE")


def test_what_is_shipped_is_what_the_script_would_keep_also_of_quoted_text() -> None:
    authorities = roots(SHIPPED, NOW)
    assert "".join(f"# {name}\n{pem}\n" for name, pem in authorities.items()) == SHIPPED
    quoted = "'" + SHIPPED.replace("\n", "\\n' +\n  '") + "'"
    assert roots(quoted, NOW) == authorities


def test_what_has_expired_is_no_root_or_belongs_to_no_region_is_left_out() -> None:
    good = certificate("Amazon RDS xx-west-1 Root CA")
    others = [
        certificate("Amazon RDS xx-west-1 2019 CA", issuer="Amazon RDS xx-west-1 Root CA"),
        certificate("Amazon RDS xx-west-2 Root CA", days=-1),
        certificate("Amazon RDS Beta xx-west-1 Root CA"),
    ]
    assert list(roots("".join([*others, good]), NOW)) == ["Amazon RDS xx-west-1 Root CA"]


def test_an_authority_of_another_organization_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match="'Anybody' is no authority of Amazon RDS"):
        roots(certificate("Anybody", unit="Anything"), NOW)
