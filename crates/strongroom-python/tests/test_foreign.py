"""Persistences that users wrote in Python: subclasses of ours, and objects that merely look like one."""

from __future__ import annotations

import base64
import json
import os
import time

import pytest

import strongroom
from conftest import app_token_event, app_token_query
from strongroom.persistence import BasePersistence, PersistenceNotFound

pytest.importorskip("msal")
AT = "AccessToken"


class Encoding(strongroom.FilePersistence):
    """One whose `save` encrypts, as users do."""

    is_encrypted = True

    def save(self, content):
        super().save(base64.b64encode(content.encode()).decode())

    def load(self):
        return base64.b64decode(super().load()).decode()


class InMemory:
    """Merely looks like one."""

    is_encrypted = False

    def __init__(self, location):
        self.location, self.content, self.time = location, None, 0.0
        self.calls = []

    def save(self, content):
        self.calls.append("save")
        self.content, self.time = content, time.time()

    def load(self):
        self.calls.append("load")
        if self.content is None:
            raise PersistenceNotFound()
        return self.content

    def time_last_modified(self):
        if self.content is None:
            raise PersistenceNotFound()
        return self.time

    def get_location(self):
        return self.location


@pytest.mark.parametrize("kind", [Encoding, InMemory])
def test_it_is_used_by_its_own_methods(kind, location):
    persistence = kind(location)
    cache = strongroom.PersistedTokenCache(persistence)
    assert cache.is_encrypted == persistence.is_encrypted
    assert list(cache.search(AT)) == []
    cache.add(app_token_event())
    another = strongroom.PersistedTokenCache(persistence)
    assert next(another.search(AT, target=["s1"], query=app_token_query()))["secret"] == "token"
    if kind is Encoding:
        assert b"AccessToken" not in open(location, "rb").read()
    else:
        assert json.loads(persistence.content)[AT]


def test_methods_that_one_object_of_ours_was_given_are_used(location):
    persistence, saved = strongroom.FilePersistence(location), []
    persistence.save = saved.append
    strongroom.PersistedTokenCache(persistence).add(app_token_event())
    assert len(saved) == 1 and not os.path.exists(location)


def test_what_has_not_changed_is_not_loaded_again(location):
    persistence = InMemory(location)
    cache = strongroom.PersistedTokenCache(persistence)
    cache.add(app_token_event())
    persistence.time -= 10
    list(cache.search(AT))
    persistence.calls.clear()
    for _ in range(5):
        assert len(list(cache.search(AT))) == 1
    assert persistence.calls == []


def test_a_change_within_the_tick_of_the_clock_is_seen(location):
    persistence = InMemory(location)
    cache = strongroom.PersistedTokenCache(persistence)
    cache.add(app_token_event(secret="one!"))
    when, persistence.content = persistence.time, persistence.content.replace("one!", "two!")
    persistence.time = when
    assert next(cache.search(AT))["secret"] == "two!"


def test_what_somebody_else_has_saved_meanwhile_is_not_overwritten(location):
    class Overtaken(InMemory):
        def __init__(self, location):
            super().__init__(location)
            self.overtaken = False

        def load(self):
            content = super().load()
            if not self.overtaken and self.calls.count("load") == 2:
                # After the document was loaded, and before it is compared.
                self.overtaken = True
                document = json.loads(content)
                (entry,) = document[AT].values()
                document[AT]["other"] = {**entry, "client_id": "other"}
                self.content = json.dumps(document)
                return self.content
            return content

    persistence = Overtaken(location)
    first = strongroom.PersistedTokenCache(InMemory(location))
    first.add(app_token_event())
    persistence.content = first._persistence.content
    cache = strongroom.PersistedTokenCache(persistence)
    cache.add(app_token_event("mine"))
    clients = {entry["client_id"] for entry in json.loads(persistence.content)[AT].values()}
    assert clients == {"client", "other", "mine"}


def test_its_exceptions_come_out_unchanged(location):
    class Broken(InMemory):
        raised = LookupError("mine")

        def load(self):
            raise self.raised

        def time_last_modified(self):
            return 1.0

    cache = strongroom.PersistedTokenCache(Broken(location))
    for call in (lambda: list(cache.search(AT)), lambda: cache.add(app_token_event())):
        with pytest.raises(LookupError) as raised:
            call()
        assert raised.value is Broken.raised

    class CannotSave(InMemory):
        def save(self, content):
            raise KeyboardInterrupt

    cache = strongroom.PersistedTokenCache(CannotSave(location))
    with pytest.raises(KeyboardInterrupt):
        cache.add(app_token_event())


def test_a_result_that_is_no_text_is_a_type_error(location):
    class Bytes(InMemory):
        def load(self):
            return b"{}"

        def time_last_modified(self):
            return 1.0

    with pytest.raises(TypeError):
        list(strongroom.PersistedTokenCache(Bytes(location)).search(AT))


def test_the_persistences_of_msal_extensions_work_too(location):
    theirs = pytest.importorskip("msal_extensions")
    persistence = theirs.FilePersistence(location)
    cache = strongroom.PersistedTokenCache(persistence)
    assert list(cache.search(AT)) == []
    cache.add(app_token_event())
    assert json.loads(persistence.load())[AT]
    other = theirs.PersistedTokenCache(strongroom.FilePersistence(location))
    assert len(list(other.search(AT))) == 1
    other.add(app_token_event("other"))
    assert len(list(cache.search(AT))) == 2


def test_the_lock_is_held_while_it_saves_and_not_while_it_loads_for_a_look_up(location):
    seen = []

    class Watching(InMemory):
        def save(self, content):
            seen.append(os.path.exists(location + ".lockfile"))
            super().save(content)

        def load(self):
            seen.append(os.path.exists(location + ".lockfile"))
            return super().load()

    cache = strongroom.PersistedTokenCache(Watching(location))
    cache.add(app_token_event())
    assert seen and all(seen)
    cache._persistence.time -= 10
    del seen[:]
    list(strongroom.PersistedTokenCache(cache._persistence).search(AT))
    assert seen == [False]


def test_an_abstract_one_needs_its_four_methods():
    class Half(BasePersistence):
        def load(self):
            return ""

    with pytest.raises(TypeError):
        Half()  # type: ignore[abstract]
