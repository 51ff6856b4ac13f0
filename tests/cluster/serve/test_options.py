"""Where the front doors may listen, and what a token is."""

from pathlib import Path

import pytest

from cluster.serve.options import ServeOptions, check_binding, read_token
from emulation.errors import ConfigError

PEM = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_is_open_without_a_token(host: str) -> None:
    check_binding(ServeOptions(http_host=host, grpc_host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", "localhost.example.org", ""])
def test_elsewhere_needs_tls_and_a_token(host: str) -> None:
    for options, lacks in ((ServeOptions(http_host=host), "certificate and key and a token"),
                           (ServeOptions(grpc_host=host, token=TOKEN), "a TLS certificate and key it"),
                           (ServeOptions(http_host=host, **PEM), "without a token")):
        with pytest.raises(ConfigError, match=lacks):
            check_binding(options)
    check_binding(ServeOptions(http_host=host, grpc_host=host, token=TOKEN, **PEM))
    check_binding(ServeOptions(http_host=host, http_port=None))


def test_half_of_tls_is_refused_and_a_token_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key"):
        check_binding(ServeOptions(tls_cert=tmp_path))
    assert TOKEN not in repr(ServeOptions(token=TOKEN))


def test_a_token_is_read_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, "another-token-of-24-chars") == read_token(None, TOKEN) == TOKEN
    assert read_token(None, None) is None
    for text in ("", "short", "two words of sixteen", "ünicode-of-sixteen-letters"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="one word"):
            read_token(file, None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none", None)
