"""Translate names: by a service, else by a dictionary, else not at all, each at a known quality."""

import repli

translate = repli.Stage("translate", input=lambda item: item.name)  # None as input: not applicable


@translate.rung(time_limit_s=30, breaker=repli.Breaker(scope="fleet"))
def service(names: list[str]) -> list[str]:  # a whole batch; one answer or exception per item, in order
    raise repli.Unavailable("the translation service is not configured")


@translate.rung(penalty="0.8", time_limit_s=5, per_item=True)  # one item; ItemError fails that item alone
def dictionary(name: str) -> str:
    if name not in WORDS:
        raise repli.Declined(f"no translation of {name!r}")
    return WORDS[name]


WORDS = {"Cat": "Chat", "Dog": "Chien"}
translate.skip(penalty="0.7")

pipeline = repli.default_pipeline.insert(translate, after="extract_text")

if __name__ == "__main__":
    print(translate.try_on(["Cat", "Axolotl"]))
