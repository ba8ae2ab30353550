"""`realtime token make` and `check`, as one runs them; what one makes the other takes, and a server too."""

import time
from pathlib import Path

import pytest

from realtime import cli
from tests.tokens import (
    Signer,
    claims,
    ec_signer,
    ed_signer,
    issuer_toml,
    jwks,
    key_server,
    rsa_signer,
    secret_signer,
)

SECRET = "0123456789abcdef0123456789abcdef"
ISSUER = "https://i.example"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a command with these variables; return (exit code, what it said, its errors)."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str, **variables: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            code = cli.main(["token", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


@pytest.fixture(
    params=[rsa_signer("k1"), ec_signer("k1"), ec_signer("k1", "ES384"), ed_signer("k1")],
    ids=lambda signer: signer.algorithm,
)
def signer(request: pytest.FixtureRequest) -> Signer:
    return request.param


def policy_of(folder: Path, **more: object) -> str:
    path = folder / "policy.toml"
    settings = {"issuer": ISSUER, "audience": ["realtime"], "tenants": ["acme"], **more}
    path.write_text(issuer_toml(**settings))
    return str(path)


def test_a_token_of_the_secret_is_made_and_found_valid(run):
    code, token, errors = run("make", "--sub", "alice", "--roles", "dj", REALTIME_JWT_SECRET=SECRET)
    assert (code, errors) == (0, "")
    code, said, _ = run("check", token.strip(), REALTIME_JWT_SECRET=SECRET)
    assert code == 0
    assert said.splitlines()[-1] == "valid"
    assert "claim sub: alice" in said
    assert "in 60.0 min" in said
    assert SECRET not in said


def test_a_token_of_a_private_key_is_made_and_found_valid_by_the_policy(run, tmp_path: Path, signer: Signer):
    (tmp_path / "key.pem").write_bytes(signer.private_pem)
    (tmp_path / "keys.json").write_bytes(jwks(signer))
    policy = policy_of(
        tmp_path, algorithms=[signer.algorithm], jwks_file=str(tmp_path / "keys.json"), scopes=["chat"]
    )
    order = ["make", "--sub", "al", "--tenant", "acme", "--key", "key.pem", "--kid", "k1", "--iss", ISSUER]
    code, token, _ = run(*order, "--aud", "realtime", "--scope", "chat x")
    assert code == 0
    code, said, _ = run("check", token.strip(), REALTIME_POLICY_PATH=policy)
    assert (code, said.splitlines()[-1]) == (0, "valid")
    assert f"issuer:    {ISSUER}" in said
    assert f"key:       k1, for {signer.algorithm}" in said
    code, token, _ = run(*order, "--aud", "billing", "--scope", "chat")
    code, said, _ = run("check", token.strip(), REALTIME_POLICY_PATH=policy)
    assert (code, said.splitlines()[-1]) == (1, "not valid: token is for another audience")


def test_keys_behind_a_url_are_fetched_for_a_check(run, tmp_path: Path):
    signer = ec_signer("k1")
    with key_server() as keys:
        url = keys.serve("/jwks", jwks(signer))
        policy = policy_of(tmp_path, algorithms=["ES256"], jwks_url=url)
        token = signer.token(claims(iss=ISSUER, aud="realtime", tenant="acme"))
        assert run("check", token, REALTIME_POLICY_PATH=policy)[0] == 0
        keys.serve("/jwks", b"", status=500)
        code, said, _ = run("check", token, REALTIME_POLICY_PATH=policy)
        assert (code, "not to be had now" in said) == (1, True)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("nonsense", "three parts"),
        (secret_signer("x" * 32).token(claims()), "wrong signature"),
        (secret_signer(SECRET).token(claims(exp=time.time() - 7200)), "expired"),
        (secret_signer(SECRET).token(claims(exp=None)), "no exp"),
        (secret_signer(SECRET, "HS512").token(claims()), "algorithm"),
    ],
)
def test_a_token_that_would_be_refused_is_said_to_be_with_the_reason(run, token: str, reason: str):
    code, said, errors = run("check", token, REALTIME_JWT_SECRET=SECRET)
    assert (code, errors) == (1, "")
    assert said.splitlines()[-1].startswith("not valid: ")
    assert reason in said.splitlines()[-1]


def test_a_token_comes_by_standard_input_too(run, monkeypatch: pytest.MonkeyPatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(secret_signer(SECRET).token(claims()) + "\n"))
    assert run("check", "-", REALTIME_JWT_SECRET=SECRET)[0] == 0


def test_odd_claims_are_shown_without_harm(run):
    token = secret_signer(SECRET).token(claims(note="\x1b[31mred\nline", long="x" * 5000))
    code, said, _ = run("check", token, REALTIME_JWT_SECRET=SECRET)
    assert code == 0
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) < 300


def test_a_room_token_is_made_and_told_apart(run):
    order = ("make", "--sub", "al", "--room", "chat:x", "--can", "join,history")
    token = run(*order, REALTIME_JWT_SECRET=SECRET)[1].strip()
    code, said, _ = run("check", token, REALTIME_JWT_SECRET=SECRET)
    assert (code, said.splitlines()[-1]) == (0, "valid: a room token")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--can", "join"], "goes with a room"),
        (["--room", "chat:x", "--can", "fly"], "join, publish, history, presence"),
        (["--room", "nowhere"], "kind:id"),
        (["--alg", "HS512"], "jwt_algorithms"),
        (["--key", "absent.pem"], "No such file"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(run, arguments: list[str], says: str):
    code, out, errors = run("make", "--sub", "al", *arguments, REALTIME_JWT_SECRET=SECRET)
    assert (code, out) == (1, "")
    assert says in errors
    assert len(errors.splitlines()) == 1


def test_a_key_is_used_by_its_own_algorithms_alone(run, tmp_path: Path):
    (tmp_path / "key.pem").write_bytes(ec_signer().private_pem)
    for algorithm in ("RS256", "HS256", "none", "ES384", "nonsense"):
        code, out, errors = run("make", "--sub", "al", "--key", "key.pem", "--alg", algorithm)
        assert (code, out) == (1, ""), algorithm
        assert len(errors.splitlines()) == 1


def test_with_nothing_to_judge_by_nothing_is_judged(run):
    code, out, errors = run("check", "x.y.z")
    assert (code, out) == (1, "")
    assert "no jwt_secret" in errors
