"""Whether the log-in pages answer: the health check of the `web` container. Exits with 0 if they do."""

import http.client
import sys
from http import HTTPStatus

# As in docker-compose.yml.
PORT = 9191
PATH = "/internal/ready"


def main() -> int:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=3)
    try:
        connection.request("GET", PATH)
        return 0 if connection.getresponse().status == HTTPStatus.OK else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"web does not answer: {error}", file=sys.stderr)  # noqa: T201 - it is what the health check shows
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
