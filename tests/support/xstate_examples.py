"""Machines of XState v5 as people write them, after the kinds of examples in its documentation."""

from typing import Any

_FINAL: dict[str, Any] = {"type": "final"}

EXAMPLES: dict[str, dict[str, Any]] = {
    "fetch": {
        "id": "fetch",
        "initial": "idle",
        "context": {"attempts": 0},
        "states": {
            "idle": {"on": {"FETCH": "loading"}},
            "loading": {
                "invoke": {
                    "id": "getUser",
                    "src": "fetchUser",
                    "input": {"id": 1},
                    "onDone": {"target": "success", "actions": "setUser"},
                    "onError": "failure",
                }
            },
            "failure": {
                "after": {"RETRY_DELAY": "loading"},
                "always": {"guard": "tooOften", "target": "gaveUp"},
            },
            "gaveUp": _FINAL,
            "success": _FINAL,
        },
    },
    "only an actor": {
        "id": "m",
        "initial": "a",
        "states": {"a": {"invoke": {"src": "s", "onDone": "b"}}, "b": _FINAL},
    },
    "game": {
        "id": "game",
        "initial": "playing",
        "states": {
            "playing": {
                "always": [{"target": "won", "guard": "hasWon"}, {"target": "lost", "guard": "hasLost"}],
                "on": {"AWARD": {"actions": "award"}},
            },
            "won": _FINAL,
            "lost": _FINAL,
        },
    },
    "credit check": {
        "id": "credit",
        "initial": "Entering Information",
        "states": {
            "Entering Information": {"on": {"Submit": "Verifying Credentials"}},
            "Verifying Credentials": {
                "invoke": {
                    "src": "verifyCredentials",
                    "onDone": "Checking",
                    "onError": [
                        {"guard": "isNetwork", "target": "Entering Information"},
                        {"target": "Refused"},
                    ],
                }
            },
            "Checking": {
                "initial": "asking",
                "onDone": [{"guard": "isGood", "target": "Accepted"}, {"target": "Refused"}],
                "states": {
                    "asking": {
                        "invoke": [
                            {"src": "firstBureau", "onDone": "evaluating"},
                            {"src": "secondBureau", "onDone": "evaluating", "onError": "evaluating"},
                        ]
                    },
                    "evaluating": {"always": [{"guard": "hasScore", "target": "done"}, {"target": "asking"}]},
                    "done": _FINAL,
                },
            },
            "Accepted": _FINAL,
            "Refused": _FINAL,
        },
    },
    "traffic light": {
        "id": "light",
        "initial": "green",
        "states": {
            "green": {"after": {"1000": "yellow"}},
            "yellow": {"after": {"500": "red"}},
            "red": {
                "initial": "walk",
                "states": {
                    "walk": {"on": {"COUNTDOWN": "wait"}},
                    "wait": {"on": {"COUNTDOWN": "stop"}},
                    "stop": _FINAL,
                },
                "onDone": "green",
            },
        },
    },
    "wizard": {
        "id": "wizard",
        "initial": "account",
        "states": {
            "account": {"on": {"NEXT": {"guard": "isValid", "target": "profile"}}},
            "profile": {"on": {"NEXT": "saving", "BACK": "account"}},
            "saving": {
                "tags": ["busy"],
                "initial": "pending",
                "invoke": {"src": "save", "onError": ".failed"},
                "states": {
                    "pending": {"invoke": {"src": "validate", "onDone": "written"}},
                    "written": {"always": "#wizard.end"},
                    "failed": {"on": {"*": "pending"}},
                },
            },
            "end": {"type": "final", "entry": "celebrate"},
        },
    },
    "timer": {
        "id": "timer",
        "initial": "idle",
        "states": {
            "idle": {"entry": "reset", "on": {"START": "running"}},
            "running": {
                "invoke": {"src": "ticks", "id": "ticks"},
                "always": {"guard": "isOver", "target": "over"},
                "on": {"TICK": {"actions": "count"}, "PAUSE": "paused"},
            },
            "paused": {"on": {"TOGGLE": "running"}},
            "over": {"after": {"resetDelay": [{"guard": "auto", "target": "idle"}]}},
        },
    },
    "routing": {
        "id": "route",
        "initial": "start",
        "states": {
            "start": {"always": [{"guard": {"type": "is", "params": {"n": 1}}, "target": "one"}, "other"]},
            "one": {"always": "#finished"},
            "other": {"after": {"0": "#finished"}},
            "finished": {"id": "finished", "type": "final", "output": {"ok": True}},
        },
    },
    "written by JSON.stringify": {
        "id": "m",
        "key": "m",
        "type": "compound",
        "initial": {"target": ["#m.a"], "source": "#m", "actions": [], "eventType": None},
        "states": {
            "a": {
                "id": "m.a",
                "key": "a",
                "type": "atomic",
                "states": {},
                "on": {
                    "xstate.done.actor.0.m.a": [
                        {
                            "target": ["#m.b"],
                            "source": "#m.a",
                            "actions": [],
                            "eventType": "xstate.done.actor.0.m.a",
                        }
                    ],
                    "xstate.error.actor.0.m.a": [{"target": ["#m.c"], "source": "#m.a", "actions": []}],
                },
                "invoke": [{"type": "xstate.invoke", "src": "fetchUser", "id": "0.m.a"}],
                "order": 1,
            },
            "b": {"id": "m.b", "key": "b", "type": "final", "on": {}, "invoke": [], "order": 2},
            "c": {
                "id": "m.c",
                "key": "c",
                "type": "atomic",
                "on": {"RETRY": [{"target": ["#m.a"]}]},
                "order": 3,
            },
        },
        "on": {},
        "transitions": [],
        "entry": [],
        "exit": [],
        "order": -1,
        "invoke": [],
        "tags": [],
    },
}
