"""One migration: upgrade the schema, and set up the fetchers' user, with the secrets of both users."""

from migrations.fetcher_user import set_up_fetcher_user
from migrations.schema import upgrade
from shared.database import DatabaseAddress, Tls
from shared.secrets import read_secret


def migrate(owner_secret: str, fetcher_secret: str | None, tls: Tls) -> list[DatabaseAddress]:
    """Migrate the database; return its address for each user. A second run changes nothing.

    The secrets are ARNs: of the user that owns the tables, and of the fetchers' user. If the latter is None or the
    same, the fetchers log in as the owner. Raises as `upgrade` and `set_up_fetcher_user`, and for a secret that cannot
    be read.
    """
    owner = DatabaseAddress.of_secret(read_secret(owner_secret))
    upgrade(owner, tls)
    if fetcher_secret in {None, "", owner_secret}:
        return [owner]
    fetcher = DatabaseAddress.of_secret(read_secret(str(fetcher_secret)))
    set_up_fetcher_user(owner, fetcher, tls)
    return [owner, fetcher]
