"""Write rds.pem again: the authorities that sign the certificates of Amazon RDS (run `make authorities`).

    python shared/data/renew_rds_authorities.py [SOURCE]

SOURCE is a URL or a file with certificates in PEM, plain or quoted in program text; the default is AWS's own bundle.
The file keeps the roots of AWS's regions that have not expired. A new region's root is missing until this is run.
"""

import re
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

SOURCE: Final = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
FILE: Final = Path(__file__).with_name("rds.pem")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_QUOTED_LINE_END: Final = re.compile(r"\\n['\"]?\s*\+?\s*['\"]?")
_NO_REGION: Final = (" Beta ", " Preview ")


def roots(text: str, now: float) -> dict[str, str]:
    """Return each root's PEM by its name, of those in `text` that are a region's and valid at `now`.

    Raises ValueError for a certificate that is not of Amazon RDS.
    """
    certificates: dict[str, str] = {}
    for pem in _CERTIFICATE.findall(_QUOTED_LINE_END.sub("\n", text)):
        certificate = _read(pem)
        subject, issuer = (dict(_pairs(certificate[part])) for part in ("subject", "issuer"))
        name = subject["commonName"]
        if subject.get("organizationalUnitName") != "Amazon RDS":
            raise ValueError(f"{name!r} is no authority of Amazon RDS: is the source right?")
        is_valid = ssl.cert_time_to_seconds(certificate["notAfter"]) > now
        if subject == issuer and is_valid and not any(word in name for word in _NO_REGION):
            certificates[name] = pem
    return dict(sorted(certificates.items()))


def _read(pem: str) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    [certificate] = context.get_ca_certs()
    return certificate


def _pairs(name: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 (the standard library's nested tuples)
    return (pair for part in name for pair in part)


def main() -> None:
    """Write the file that functions and jobs trust."""
    source = sys.argv[1] if len(sys.argv) > 1 else SOURCE
    if source.startswith("https://"):
        with urlopen(source, timeout=60) as answer:  # noqa: S310 (https only)
            text = answer.read().decode()
    else:
        text = Path(source).read_text(encoding="utf-8")
    certificates = roots(text, time.time())
    if not certificates:
        sys.exit(f"{source} holds no valid root of Amazon RDS: {FILE} stays as it is")
    FILE.write_text("".join(f"# {name}\n{pem}\n" for name, pem in certificates.items()), encoding="ascii")
    sys.stdout.write(f"{FILE}: {len(certificates)} authorities\n")


if __name__ == "__main__":
    main()
