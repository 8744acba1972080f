"""Sort support messages into queues: by a language model, else a small classifier, else key words, else not at all."""

import os
from functools import lru_cache

import httpx
import repli

WORDS = {"refund": "billing", "rechnung": "billing", "parcel": "delivery", "paket": "delivery", "password": "account"}
EXAMPLES = {"billing": ["I was charged twice", "please send the invoice again", "card declined", "my money back"],
            "delivery": ["it has not arrived yet", "the box is damaged", "the driver left it", "send to a new address"],
            "account": ["I cannot sign in", "the code never comes", "delete my data", "change my email"]}  # fmt: skip
message = repli.Stage("message", input=lambda item: [item.name, item.attributes.get("body")], produces=repli.Text)
queue = repli.Stage("queue", input=lambda item: item.value(repli.Text), produces=repli.Label)


@message.rung(time_limit_s=5, per_item=True)
def subject_and_body(parts: list[str | None]) -> str:
    return "\n\n".join(part for part in parts if part)


@queue.rung(time_limit_s=30, per_item=True, breaker=repli.Breaker(scope="fleet"))
def model(message: repli.Text) -> str | repli.Declined:
    task = f"Which queue is this message for: {', '.join(EXAMPLES)} or other? Answer one word.\n\n{message.text}"
    ask = {"model": os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), "messages": [{"role": "user", "content": task}]}
    try:
        url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
        reply = httpx.post(f"{url}/chat/completions", json=ask, headers={"Authorization": f"Bearer {key}"}, timeout=20)
    except (KeyError, httpx.TransportError) as error:
        raise repli.Unavailable(f"no language model: {error!r}") from error
    if reply.status_code in (429, 503):
        raise repli.Unavailable(f"the language model is overloaded: it answered {reply.status_code}")
    answer = reply.raise_for_status().json()["choices"][0]["message"]["content"].strip(" .\n").lower()
    return answer if answer in {*EXAMPLES, "other"} else repli.Declined(f"the model answered {answer[:40]!r}")


@lru_cache  # trained once in each process
def trained():
    from sklearn import feature_extraction, linear_model, pipeline

    texts, labels = zip(*((text, label) for label, texts in EXAMPLES.items() for text in texts), strict=True)
    steps = feature_extraction.text.TfidfVectorizer(stop_words="english"), linear_model.LogisticRegression(C=10)
    return pipeline.make_pipeline(*steps).fit(texts, labels)


@queue.rung(penalty="0.75", time_limit_s=30)  # below 0.8, so that the retry queue takes the item
def classifier(messages: list[repli.Text]) -> list[repli.Served[str] | repli.Declined]:
    chances = trained().predict_proba([message.text for message in messages])
    best = zip(trained().classes_[chances.argmax(axis=1)], chances.max(axis=1), strict=True)
    return [repli.Served(label, p) if p > 0.6 else repli.Declined(f"{label} at {p:.2f}") for label, p in best]


@queue.rung(penalty="0.6", time_limit_s=5, per_item=True)
def words(message: repli.Text) -> repli.Served[str] | repli.Declined:
    named = {label for word, label in WORDS.items() if word in message.text.lower()}
    return repli.Served(named.pop(), confidence=0.5) if len(named) == 1 else repli.Declined("no key word of one queue")


queue.skip(penalty="0.4")
pipeline = repli.Pipeline([message, queue])
