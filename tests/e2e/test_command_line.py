"""The commands, as a person runs them."""

import json
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from config.settings import SHIPPED_FLOWS
from tests.support.commands import run_command
from tests.support.samples import flow_dict
from tests.support.serving import Process, Serving
from tests.support.shell import Shell


def test_flows(shell: Shell) -> None:
    assert "user-onboarding\tv1\t5 steps" in shell("flows", "list")
    assert "start -> profile-setup" in shell("flows", "show", "user-onboarding")
    exported = json.loads(shell("flows", "export", "sign-in"))
    assert exported == json.loads((SHIPPED_FLOWS / "sign-in.json").read_text())
    file = shell.cwd / "loop.json"
    file.write_text(json.dumps(flow_dict()))
    assert "loop v1 published" in shell("flows", "import", "loop.json")
    assert "loop v1 is the same already" in shell("flows", "import", "loop.json")
    file.write_text(json.dumps(flow_dict(title="New")))
    assert "loop v2 published" in shell("flows", "import", "loop.json")
    assert shell("flows", "show", "nowhere", code=1) == "server-flow: Flow nowhere not found\n"


def test_a_file_that_a_caller_outranks_is_listed_and_handed_back(shell: Shell) -> None:
    folder = shell.cwd / "flows"
    folder.mkdir()
    (folder / "loop.json").write_text(json.dumps(flow_dict(title="File")))
    shell.env["FLOW_DEFINITIONS"] = "database,file:flows"
    assert shell("flows", "list") == "loop\tv1\t3 steps\tFile\tfile:loop.json\n"
    (shell.cwd / "loop.json").write_text(json.dumps(flow_dict(title="Import")))
    shell("flows", "import", "loop.json")
    listed = "loop\tv2\t3 steps\tImport\timport (outranks flows/loop.json, see flows hand-back)\n"
    assert shell("flows", "list") == listed
    assert shell("flows", "hand-back", "loop") == "loop v3 published, from file:loop.json\n"
    assert shell("flows", "list") == "loop\tv3\t3 steps\tFile\tfile:loop.json\n"
    assert "cannot be handed back: its newest version is of file:" in shell(
        "flows", "hand-back", "loop", code=1
    )


def test_validate_needs_no_server(shell: Shell) -> None:
    shell.env = {}
    assert shell("flows", "validate", str(SHIPPED_FLOWS)) == "3 definitions checked, no errors.\n"
    broken = shell.cwd / "broken.json"
    broken.write_text(json.dumps(flow_dict("a:b", initialStep="x")))
    (shell.cwd / "not.json").write_text("{")
    lines = shell("flows", "validate", "broken.json", "not.json", "missing.json", code=1).splitlines()
    assert any(
        line.startswith("broken.json: flow: The slug of a flow must not have a colon; ") for line in lines
    )
    assert any(line.startswith("broken.json: initialStep: There is no step 'x'; ") for line in lines)
    assert any(line.startswith("not.json: ") and "is not JSON" in line for line in lines)
    assert any(line.startswith("missing.json: no such file") for line in lines)


def test_the_token_of_a_state(shell: Shell) -> None:
    which = ("--user", "ada", "--flow", "user-onboarding")
    assert "not started" in shell("state", "token", *which, code=1)
    shell("state", "set", *which, '{"step": "verification"}')
    token = shell("state", "token", *which).strip()
    compare = ("state", "compare-token", "--user")
    assert shell(*compare, "ada", token) == "user-onboarding v1: verification\n"
    shell("state", "set", *which, '{"step": "welcome"}')
    assert shell(*compare, "ada", token, code=1).endswith("step differs\n")
    assert shell(*compare, "bob", token, code=1).endswith("there is no state\n")
    assert "is not a state token" in shell(*compare, "ada", "abcd", code=1)


def test_state(shell: Shell) -> None:
    which = ("--user", "ada", "--flow", "user-onboarding")
    assert "not started" in shell("state", "show", *which, code=1)
    made = json.loads(shell("state", "set", *which, '{"step": "verification"}'))
    assert (made["step"], made["revision"]) == ("verification", 0)
    assert json.loads(shell("state", "show", *which)) == made
    flow = which[which.index("--flow") + 1]
    assert "no searchable field" in shell("state", "find", "--flow", flow, "/number=1", code=1)
    explained = shell("state", "explain", *which, "--to", "completed")
    assert "at verification (active, revision 0)" in explained
    assert "the shortest way to completed" in explained
    assert json.loads(shell("state", "explain", *which, "--json"))["state"]["step"] == "verification"
    assert "/nonsense" not in shell("state", "set", *which, '{"step": 1, "nonsense": 2}', code=1)
    assert "JSON" in shell("state", "set", *which, "{", code=2)
    assert shell("state", "clear", *which) == "cleared\n"
    assert shell("state", "clear", *which) == "there was no state\n"
    lines = shell("state", "history", *which).splitlines()
    assert [line.split("\t")[2] for line in lines] == ["set", "cleared"]


def test_a_shown_state_has_the_transitions_of_its_user(shell: Shell, tmp_path: Path) -> None:
    steps = {
        "a": {
            "index": 0,
            "step": "a",
            "service": "s",
            "transitions": {"go": {"transition": "go", "step": "b", "guard": "user.id == 'ada'"}},
        },
        "b": {"index": 1, "step": "b", "service": "s", "transitions": {}},
    }
    flow = {"flow": "own", "initialStep": "a", "steps": steps}
    (tmp_path / "own.json").write_text(json.dumps(flow))
    shell("flows", "import", str(tmp_path / "own.json"))
    for user, shown in (("ada", ["go"]), ("bob", [])):
        which = ("--user", user, "--flow", "own")
        shell("state", "set", *which, '{"step": "a"}')
        state = json.loads(shell("state", "show", *which))
        assert [each["transition"] for each in state["transitions"]] == shown


def test_verify_and_recover(shell: Shell) -> None:
    which = ("--user", "ada", "--flow", "user-onboarding")
    assert "not started" in shell("state", "recover", *which, code=1)
    made = json.loads(shell("state", "set", *which, '{"step": "verification"}'))
    assert shell("state", "verify", *which).startswith("whole: 1 records; head ")
    stored = json.loads(shell("state", "recover", *which))
    assert stored == {"action": "kept", "state": made}
    client: MongoClient[dict[str, Any]] = MongoClient(shell.env["FLOW_MONGO_URL"])
    with client:
        database = client[shell.env["FLOW_MONGO_DATABASE"]]
        database.flow_states.update_one({}, {"$set": {"step": "nowhere"}})
        assert "recover would rebuild it from its history at step verification" in shell(
            "state", "show", *which, code=1
        )
        done, _ = json.JSONDecoder().raw_decode(shell("state", "recover", *which))  # and a line in the log
        assert (done["action"], done["state"]["step"], done["state"]["revision"]) == (
            "rebuilt",
            "verification",
            1,
        )
        assert shell("state", "verify", *which).startswith("whole: 2 records; head ")
        database.flow_history.update_one({"revision": 0}, {"$set": {"actor": "eve"}})
    broken = shell("state", "verify", *which, code=1)
    assert "BROKEN: 2 records" in broken
    assert f"first broken link: {done['record']}: it was changed" in broken


def test_a_users_data(shell: Shell) -> None:
    shell(
        "state",
        "set",
        "--user",
        "ada",
        "--flow",
        "user-onboarding",
        '{"step": "welcome", "payload": {"n": 1}}',
    )
    found = json.loads(shell("user", "export", "--user", "ada"))
    assert found["states"][0]["payload"] == {"n": 1}
    unconfirmed = run_command(("user", "erase", "--user", "ada", "--json"), shell.env, shell.cwd)
    assert (unconfirmed.code, unconfirmed.stdout) == (1, ""), "a file with the receipt has nothing else"
    assert "Aborted" in unconfirmed.stderr
    receipt = json.loads(shell("user", "erase", "--user", "ada", "--yes", "--json"))
    assert (receipt["userId"], receipt["recordsErased"]) == ("ada", 1)
    assert json.loads(shell("user", "export", "--user", "ada"))["states"] == []
    which = ("--user", "ada", "--flow", "user-onboarding")
    assert "was erased at" in shell("state", "show", *which, code=1)
    printed = shell("user", "erase", "--user", "ada", "--yes")
    assert "audit entry\t" in printed
    assert "erased\t" in printed


def test_operate(shell: Shell) -> None:
    shell("state", "set", "--user", "ada", "--flow", "user-onboarding", '{"step": "welcome"}')
    figures = json.loads(shell("stats", "--json"))
    assert figures["totalFlows"] == 1
    assert "active users         1" in shell("stats")
    assert shell("purge") == "0 expired states ended\n"
    printed = shell("check-config")
    assert "MongoDB: answers" in printed
    assert "Redis: answers" in printed
    assert ("is not encrypted" in printed) == ("FLOW_ENCRYPTION_KEYS" not in shell.env)
    assert shell.env["FLOW_JWT_SECRET"] not in printed
    shell.env["FLOW_REDIS_URL"] = "redis://127.0.0.1:1"
    assert "Redis: Redis does not answer" in shell("check-config", code=1)


def test_a_service_gets_a_key_and_the_address_of_its_stream(shell: Shell) -> None:
    assert "No service is registered as payment" in shell("services", "make-key", "payment", code=1)
    registered = json.loads(shell("services", "register", "payment", '{"stream": true}'))
    assert registered["secret"].startswith("whsec_")
    assert shell("services", "make-key", "payment", "--name", "first").startswith("sfk_")
    refused = shell("services", "make-key", "payment", "--expires-in", "1", code=1)
    assert refused.startswith("server-flow: /expiresIn: ")
    assert shell("services", "list").endswith("0 delivered\t0 failed\t0 failed here\tstream\n")
    assert shell("deliveries", "failing", "payment").startswith("No events have failed")
    assert shell("services", "redis-url") == f"{shell.env['FLOW_REDIS_URL']}\n"
    shell.env = {}
    assert "start 'server-flow serve' first" in shell("services", "redis-url", code=2)


def test_a_wrong_password_is_reported_to_who_can_mend_it(shell: Shell) -> None:
    shell.env["FLOW_MONGO_URL"] = shell.env["FLOW_MONGO_URL"].replace("://flow:", "://flow:x", 1)
    reported = "MongoDB refuses (code 18): check the user, the password and the rights of its URL"
    assert f"MongoDB: {reported}" in shell("check-config", code=1)
    assert f"server-flow: {reported} (FLOW_MONGO_URL)" in shell("flows", "list", code=1)


def test_own_servers_get_no_example_flows(shell: Shell) -> None:
    del shell.env["FLOW_DEFINITIONS"]
    assert shell("flows", "list") == ""
    assert "FLOW_DEFINITIONS=database\n" in shell("check-config")
    serving = Serving(env=shell.env, cwd=shell.cwd)
    assert "/api/flow/" not in serving.output
    serving.end()
    assert shell("flows", "list") == ""
    shell.env["FLOW_DEFINITIONS"] = "database,file:config/flows"
    assert "config/flows" in shell("flows", "list", code=1), "a missing folder is a fault, not the examples"


def test_an_integer_as_javascript_writes_a_double(shell: Shell) -> None:
    where = ("--user", "ada", "--flow", "sign-in")
    step = json.loads((SHIPPED_FLOWS / "sign-in.json").read_text())["initialStep"]
    body = f'{{"step": "{step}", "payload": {{"n": 100000000000000000000}}}}'
    assert json.loads(shell("state", "set", *where, body))["payload"] == {"n": 1e20}
    assert json.loads(shell("state", "show", *where))["payload"] == {"n": 1e20}
    assert "64 bits" in shell("state", "set", *where, body.replace("00}", "01}"), code=1)


def test_token_wants_sound_words(shell: Shell) -> None:
    assert shell("token", "--user", "ada").count(".") == 2
    assert "--ttl" in shell("token", "--user", "ada", "--ttl", "soon", code=2)
    assert "--user" in shell("token", "--user", "a\nb", code=2)
    shell.env = {}
    assert "server-flow serve" in shell("token", "--user", "ada", code=1)


def test_worker_runs_until_it_is_reported(shell: Shell) -> None:
    worker = Process("worker", env=shell.env, cwd=shell.cwd)
    worker.wait_for("background jobs are running")
    assert worker.end() == 0
    shell.env = {}
    assert "FLOW_MONGO_URL" in shell("worker", code=2)
