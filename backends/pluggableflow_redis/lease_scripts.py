# SPDX-License-Identifier: Apache-2.0
"""The scripts that give and take the lease of one flow, and those that mark, create and delete it.

``KEYS`` and answers are those of :mod:`pluggableflow_redis.flow_scripts`.
"""

from __future__ import annotations

from pluggableflow_redis.client import Script
from pluggableflow_redis.flow_scripts import CLOCK, HINT, UNPACK, WRITE

_ASKED = """
local function asked()
  return unpack(redis.call('HMGET', KEYS[1], 'request', 'request_by', 'request_sequence', 'request_handled'))
end
"""

#: checked mark, hint number, since, token, owner, microseconds, epoch to evict or '', number of the index's entry or
#: '' when the flow was named. Answers of a scan: ``stale``: the entry is to be removed; ``later``: not before then.
CLAIM = Script(
    CLOCK,
    HINT,
    _ASKED,
    """
local flow, time = see(), clock()
if not flow.uuid then return {'none'} end
local mine = flow.token == ARGV[4]
if flow.mark and flow.mark ~= ARGV[1] then return {'marked', flow.mark, flow.parent_uuid} end
local scan, number = ARGV[8] ~= '', tonumber(ARGV[8])
if scan and not mine then
  local last = tonumber(flow.hint or 0)
  if number < last then return {'stale'} end
  if number > last then
    -- Whoever added this entry has not written the flow yet. Taking the number makes him ask again.
    redis.call('HSET', KEYS[1], 'hint', ARGV[8], 'hint_at', '0')
    flow.hint, flow.hint_at = ARGV[8], '0'
  end
  local at = available(flow)
  if not at then
    redis.call('HDEL', KEYS[1], 'hint_at')
    return {'stale'}
  end
  if at > time then
    redis.call('HSET', KEYS[1], 'hint_at', int(at))
    return {'later', int(at)}
  end
end
local epoch = tonumber(flow.epoch)
if not mine then
  local live = owned(flow, time)
  if live and ARGV[7] ~= flow.epoch then return live end
  epoch = epoch + 1
end
local expires_at = int(time + tonumber(ARGV[6]))
flow.token, flow.lease_expires_at = ARGV[4], expires_at
local wanting = lacks(flow, time, ARGV[2], ARGV[3])
if wanting then return wanting end
hinted(flow, ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], 'token', ARGV[4], 'owner', ARGV[5], 'epoch', int(epoch), 'lease_expires_at', expires_at)
local at = available(flow)
if scan and not mine then redis.call('HSET', KEYS[1], 'hint_at', int(at)) end
if flow.mark then redis.call('HDEL', KEYS[1], 'mark') end
return {'ok', int(epoch), expires_at, flow.revision, int(time), int(at or 0), asked()}
""",
)

#: token -> whether the flow is its
HOLDS = Script("return redis.call('HGET', KEYS[1], 'token') == ARGV[1] and 1 or 0")

#: token, hint number, since, microseconds
RENEW = Script(
    CLOCK,
    HINT,
    _ASKED,
    """
local flow, time = see(), clock()
if flow.token ~= ARGV[1] then return {'lost'} end
local expires_at = int(time + tonumber(ARGV[4]))
flow.lease_expires_at = expires_at
local wanting = lacks(flow, time, ARGV[2], ARGV[3])
if wanting then return wanting end
hinted(flow, ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], 'lease_expires_at', expires_at)
return {'ok', expires_at, int(time), asked()}
""",
)

#: token, hint number, since. Answer: the entry that is to leave the index (number or '', priority, created_at), and
#: whether there are atoms that are not found by themselves yet.
RELEASE = Script(
    CLOCK,
    HINT,
    """
local flow = see()
if flow.token ~= ARGV[1] then return {'lost'} end
flow.token = false
local wanting = lacks(flow, clock(), ARGV[2], ARGV[3])
if wanting then return wanting end
hinted(flow, ARGV[2], ARGV[3])
redis.call('HDEL', KEYS[1], 'token', 'lease_expires_at')
local gone = ''
if flow.hint_at and not available(flow) then
  gone = flow.hint
  redis.call('HDEL', KEYS[1], 'hint_at')
end
local counts = redis.call('HMGET', KEYS[1], 'atom_count', 'indexed')
local behind = tonumber(counts[1] or 0) > tonumber(counts[2] or 0)
return {'ok', gone, flow.priority, flow.created_at, behind and 1 or 0}
""",
)

#: Answer: the number of atoms, ``created_at`` of the flow, and the atoms that are not found by themselves yet.
UNINDEXED = Script(
    """
local counts, new = redis.call('HMGET', KEYS[1], 'atom_count', 'indexed', 'created_at'), {}
if tonumber(counts[1] or 0) > tonumber(counts[2] or 0) then
  for _, uuid in ipairs(redis.call('HVALS', KEYS[3])) do
    if tonumber(redis.call('HGET', KEYS[2], uuid .. ':position')) > tonumber(counts[2] or 0) then
      new[#new + 1] = uuid
    end
  end
end
return {counts[1] or '0', counts[3] or '0', new}
"""
)

#: count -> so many atoms are found by themselves
INDEXED = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'indexed') or 0) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'indexed', ARGV[1])
end
return 1
"""
)

#: book, mark, hint number, since, whether by force, created_at of the flow that is meant, mark that may be replaced
DOOM = Script(
    CLOCK,
    HINT,
    """
local flow, time = see(), clock()
if flow.parent_uuid ~= ARGV[1] or flow.created_at ~= ARGV[6] then return {'none'} end
if flow.mark and flow.mark ~= ARGV[2] and flow.mark ~= ARGV[7] then return {'marked', flow.mark} end
local live = owned(flow, time)
if live and ARGV[5] ~= '1' then return live end
flow.token = false
local wanting = lacks(flow, time, ARGV[3], ARGV[4])
if wanting then return wanting end
hinted(flow, ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], 'mark', ARGV[2])
redis.call('HDEL', KEYS[1], 'token', 'lease_expires_at')
return {'ok'}
""",
)

#: mark -> the flow is simply there
UNMARK = Script(
    "if redis.call('HGET', KEYS[1], 'mark') == ARGV[1] then redis.call('HDEL', KEYS[1], 'mark') end return 1"
)

#: Packed: mark, counts of: flow values, atom values, atoms; then these. With no flow values: further atoms of the flow
#: that has the mark.
STAGE = Script(
    UNPACK,
    WRITE,
    """
local there = redis.call('HMGET', KEYS[1], 'uuid', 'mark', 'parent_uuid')
local set, atom_set, count = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if set == 0 then
  if there[2] ~= ARGV[1] then return {'lost'} end
elseif there[1] then
  if not there[2] then return {'exists'} end
  if there[2] ~= ARGV[1] then return {'marked', there[2], there[3]} end
  redis.call('UNLINK', unpack(KEYS))
end
put(KEYS[1], 5, set)
put(KEYS[2], 5 + set, atom_set)
local list = 5 + set + atom_set
for at = list, list + 2 * count - 1, 2 do redis.call('HSET', KEYS[3], ARGV[at + 1], ARGV[at]) end
return {'ok'}
""",
)

#: mark. Answer: what the index has of the flow (priority, created_at, hint number), and the atoms.
LEFTOVER = Script(
    """
local flow = redis.call('HMGET', KEYS[1], 'mark', 'priority', 'created_at', 'hint')
if flow[1] ~= ARGV[1] then return {'none'} end
return {'ok', flow[2], flow[3], flow[4] or '0', redis.call('HVALS', KEYS[3])}
"""
)

#: mark
DELETE = Script(
    "if redis.call('HGET', KEYS[1], 'mark') == ARGV[1] then redis.call('UNLINK', unpack(KEYS)) end return 1"
)
