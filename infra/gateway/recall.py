"""Answering again what came before to the byte: nothing is read, run or awaited."""

import hashlib
import logging

import numpy as np
from starlette.types import Scope

from infra.gateway.access import Access
from infra.gateway.admission import Admission
from infra.gateway.cache import AnswerCache, BodyKey, KnownBody, fingerprint_of
from infra.gateway.dispatch import Dispatcher
from infra.gateway.errors import RequestError
from infra.gateway.http import CONTENT_TYPE, JSON_LENGTH, Reply, is_plain, with_length
from infra.gateway.protocol import InferRequest, new_id
from infra.gateway.records import sketch_of
from infra.gateway.replies import reply_of
from infra.gateway.routing import RoutingTable, ServedRoute
from infra.gateway.targets import infer_target, request_key
from tasks.contracts.sampled_inputs import is_sampled

BODY_KEY = "stillhouse.body_key"
"""Where a request's scope holds its `BodyKey` once `at_once` has looked for it, and found nothing."""
OPEN_INFERENCE, INVOCATIONS = b"open inference", b"invocations"
_NO_ROWS = np.empty(0, np.float32)

logger = logging.getLogger(__name__)


class Recall:
    """Knows bodies by their bytes, and gives the answers that the cache holds.

    A body is remembered when its input is found in the cache: once it has come a second time. What one request says
    beside its body counts each time: its key for the split, and its id where the body has none. The answer is looked
    for under the present route's models, so that a reload or another arm is never answered by what was known before.
    """

    def __init__(
        self,
        table: RoutingTable,
        dispatcher: Dispatcher,
        cache: AnswerCache,
        admission: Admission,
        access: Access | None,
        *,
        sample_share: float,
    ) -> None:
        """Take what a request would meet on its usual way.

        Args:
            table: the models that are served.
            dispatcher: assigns arms and records answers.
            cache: holds bodies and answers.
            admission: says when nothing new is begun.
            access: the tokens that callers need; None lets everybody in.
            sample_share: share of the requests whose inputs are logged: they are read each time, for the log.
        """
        self._table, self._dispatcher, self._cache = table, dispatcher, cache
        self._admission, self._access = admission, access
        self._sample_share = sample_share

    def key_of(self, served: ServedRoute, protocol: bytes, sent: dict[bytes, bytes], body: bytes) -> BodyKey:
        """Return what the meaning of a body depends on."""
        digest = hashlib.sha256(body).digest()
        return BodyKey(served.parser.identity, protocol, sent.get(JSON_LENGTH), sent.get(CONTENT_TYPE), digest)

    def learn(self, key: BodyKey, request: InferRequest) -> None:
        """Remember what a body asks for."""
        if self._cache.get_body(key) is None:
            inputs = request.inputs
            nothing_of_them = request._replace(inputs=_NO_ROWS)
            self._cache.put_body(key, KnownBody(nothing_of_them, fingerprint_of(inputs), sketch_of(inputs)))

    def reply(self, served: ServedRoute, key: BodyKey, sent: dict[bytes, bytes], body: bytes) -> Reply | None:
        """Answer a body that is known, or return None: then it is to be read, and its answer looked for again.

        Raises:
            RequestError: 400, the request's key is no identifier.
        """
        known = self._cache.get_body(key)
        if known is None:
            return None
        request = known.request if known.request.is_named else InferRequest(new_id(), *known.request[1:])
        # to leave this to the usual way, which makes up another id, would leave most of the sample out
        is_wanted = self._sample_share > 0.0 and is_sampled(request.request_id, self._sample_share)
        inputs = _read(served, key, body) if is_wanted else None
        answer = self._dispatcher.recall(served, known, request, request_key(sent) or request.request_id, inputs)
        return None if answer is None else reply_of(served, answer, request.request_id)

    def at_once(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer a whole request before it is given a task, or return None and leave it to its usual way.

        That way also tells of what is wrong with a request, so that nothing is said or counted here.
        """
        target = infer_target(scope["path"]) if scope["method"] == "POST" else None
        if target is None or target[1] is not None or self._admission.closed:
            return None
        served = self._table.get(target[0])
        sent = dict(scope["headers"])
        if served is None or not is_plain(sent):
            return None
        try:
            if self._access is not None:
                self._access.check(scope["headers"], "infer")
            key = scope[BODY_KEY] = self.key_of(served, OPEN_INFERENCE, sent, body)
            reply = self.reply(served, key, sent, body)
        except RequestError:
            return None
        except Exception:  # what fails here must not cost the connection
            logger.exception("a request could not be answered at once; it goes its usual way")
            return None
        return None if reply is None else with_length(reply)


def _read(served: ServedRoute, key: BodyKey, body: bytes) -> np.ndarray:
    """Return the inputs of a body that was read before, and found to be right."""
    if key.protocol == INVOCATIONS:
        return served.parser.parse_invocation(body).inputs
    return served.parser.parse(body, None if key.json_length is None else int(key.json_length)).inputs
