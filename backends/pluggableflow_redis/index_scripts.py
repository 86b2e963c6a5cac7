# SPDX-License-Identifier: Apache-2.0
"""The scripts of the index, all of whose keys share one slot, and of one book."""

from __future__ import annotations

from pluggableflow_redis.client import Script
from pluggableflow_redis.flow_scripts import CLOCK

#: Entries that have become due are moved in portions, so that no call keeps the server busy for long.
DUE = 1000

#: ``KEYS``: ready, waiting, claims, recent. ``ARGV``: token, entry after which to look or '', flow that was tried
#: last or '', entry to remove or '', entry to put off or '', until when, whether to look for an earlier claim.
#: Answer: ``next`` and an entry, ``mine`` and a flow, ``more`` (call again), ``none``.
PICK = Script(
    CLOCK,
    f"local portion = {DUE}",
    """
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[4], ARGV[3] .. '\\0' .. ARGV[1]) end
if ARGV[4] ~= '' then
  redis.call('ZREM', KEYS[1], ARGV[4])
  redis.call('ZREM', KEYS[2], ARGV[4])
end
if ARGV[5] ~= '' then
  redis.call('ZREM', KEYS[1], ARGV[5])
  redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(clock()), 'LIMIT', 0, portion)
for _, entry in ipairs(due) do
  redis.call('ZREM', KEYS[2], entry)
  redis.call('ZADD', KEYS[1], 0, entry)
end
if #due == portion then return {'more'} end
if ARGV[7] == '1' then
  local mine = redis.call('HGET', KEYS[3], ARGV[1])
  if mine then return {'mine', mine} end
end
local first = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local entry = redis.call('ZRANGEBYLEX', KEYS[1], first, '+', 'LIMIT', 0, 1)[1]
if not entry then
  redis.call('HDEL', KEYS[3], ARGV[1])
  return {'none'}
end
local flow = string.match(string.sub(entry, 33), '^(.*)%z%d+$')
redis.call('HSET', KEYS[3], ARGV[1], flow)
redis.call('ZADD', KEYS[4], int(clock()), flow .. '\\0' .. ARGV[1])
return {'next', entry}
""",
)

#: ``KEYS``: ready, waiting. ``ARGV``: entry, until when. Nothing if the entry has gone.
PUT_OFF = Script(
    "if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1]) end return 1"
)

#: ``KEYS``: recent. ``ARGV``: flow, NUL, token.
CLAIMING = Script(CLOCK, "return redis.call('ZADD', KEYS[1], int(clock()), ARGV[1])")

#: ``KEYS``: recent. ``ARGV``: an age in microseconds, how many. Answer: claims of at least that age, which count as
#: new from now on.
OLD_CLAIMS = Script(
    CLOCK,
    """
local time = clock()
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(time - tonumber(ARGV[1])), 'LIMIT', 0, ARGV[2])
for _, claim in ipairs(old) do redis.call('ZADD', KEYS[1], int(time), claim) end
return old
""",
)

#: ``KEYS``: an atom. ``ARGV``: what the key holds if it is to be deleted.
FORGET_ATOM = Script("return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0")

#: ``KEYS``: open, books, flows. ``ARGV``: operation, its story, member of the books or '', members of the flows.
OPEN = Script(
    CLOCK,
    """
redis.call('HSET', KEYS[1], ARGV[1], int(clock()) .. ' ' .. ARGV[2])
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], 0, ARGV[3]) end
for at = 4, #ARGV do redis.call('ZADD', KEYS[3], 0, ARGV[at]) end
return 1
""",
)

# -- books: KEYS are those of Keys.book ----------------------------------------------------------------------------

_READ = "return {int(clock()), redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}"
#: Answer: the time, the book's fields, its flows.
READ_BOOK = Script(CLOCK, _READ)
#: operation, which may save the book until it is aborted, for an hour. The same answer.
BEGIN_SAVE = Script(
    CLOCK,
    """
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', int(clock() - 3600000000))
redis.call('ZADD', KEYS[4], int(clock()), ARGV[1])
redis.call('EXPIRE', KEYS[4], 3600)
""",
    _READ,
)
#: operation, which cannot save the book any more if it has not done so. The same answer.
ABORT_SAVE = Script(CLOCK, "redis.call('ZREM', KEYS[4], ARGV[1])", _READ)

#: flow, operation whose mark it has, whether to abort that one, own operation on the same book or ''. Answer:
#: ``there``, ``aborted``: the own one is, ``busy``: the other may still save the book, ``free``: it cannot any more.
CONTEST = Script(
    """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 'there' end
if ARGV[4] ~= '' and not redis.call('ZSCORE', KEYS[4], ARGV[4]) then return 'aborted' end
if ARGV[3] == '1' then redis.call('ZREM', KEYS[4], ARGV[2]) end
return redis.call('ZSCORE', KEYS[4], ARGV[2]) and 'busy' or 'free'
"""
)

#: flow, whether to stop a destruction. Answer: whether the book has the flow; whether it is just being destroyed.
RESOLVE = Script(
    """
local destroying = redis.call('HGET', KEYS[1], 'destroying')
if destroying and ARGV[2] == '1' then
  redis.call('HDEL', KEYS[1], 'destroying')
  destroying = false
end
return {redis.call('HEXISTS', KEYS[2], ARGV[1]), destroying and 1 or 0}
"""
)

#: operation, time of creation if it is new, uuid, name, whether it has meta, meta; then each flow and its
#: created_at. Answer: ``aborted``, or ``ok``, created_at, updated_at; that also when it is asked again, unless another
#: operation has saved the book since.
SAVE = Script(
    CLOCK,
    """
local saved = redis.call('GET', KEYS[5]) or ''
if string.sub(saved, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then return {'ok', string.match(saved, '(%d+) (%d+)$')} end
if redis.call('ZREM', KEYS[4], ARGV[1]) == 0 then return {'aborted'} end
local time = int(clock())
if redis.call('HSETNX', KEYS[1], 'created_at', ARGV[2]) == 1 then
  redis.call('HSET', KEYS[1], 'uuid', ARGV[3], 'name', ARGV[4])
end
redis.call('HSET', KEYS[1], 'updated_at', time)
if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'meta', ARGV[6]) else redis.call('HDEL', KEYS[1], 'meta') end
redis.call('HDEL', KEYS[1], 'destroying')
for at = 7, #ARGV, 2 do redis.call('HSETNX', KEYS[2], ARGV[at], ARGV[at + 1]) end
local created_at = redis.call('HGET', KEYS[1], 'created_at')
redis.call('SET', KEYS[5], ARGV[1] .. ' ' .. created_at .. ' ' .. time, 'EX', 3600)
return {'ok', created_at, time}
""",
)

#: operation, whether in place of another. Answer: ``none``, ``busy``: another one is about to, or ``ok``, created_at,
#: its flows.
DESTROY = Script(
    """
local created_at = redis.call('HGET', KEYS[1], 'created_at')
if not created_at then return {'none'} end
if ARGV[2] ~= '1' and (redis.call('HGET', KEYS[1], 'destroying') or ARGV[1]) ~= ARGV[1] then return {'busy'} end
redis.call('HSET', KEYS[1], 'destroying', ARGV[1])
return {'ok', created_at, redis.call('HGETALL', KEYS[2])}
"""
)

#: operation -> whether the book is about to be destroyed by it
DESTROYING = Script("return redis.call('HGET', KEYS[1], 'destroying') == ARGV[1] and 1 or 0")

#: operation, whether to go through with it. Answer: whether it has come to that end, also when asked again. What was
#: about to save the book has seen one that is gone now, and begins again.
END_DESTROY = Script(
    """
if redis.call('HGET', KEYS[1], 'destroying') ~= ARGV[1] then
  return redis.call('GET', KEYS[3]) == ARGV[1] and 1 or 0
end
if ARGV[2] == '1' then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[4])
  redis.call('SET', KEYS[3], ARGV[1], 'EX', 3600)
else
  redis.call('HDEL', KEYS[1], 'destroying')
end
return 1
"""
)
