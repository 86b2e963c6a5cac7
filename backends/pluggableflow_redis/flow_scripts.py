# SPDX-License-Identifier: Apache-2.0
"""The scripts that read and write one flow: one slot, one atomic step each.

``KEYS``: the flow, its atoms, its names. Every answer is a list whose first item says what happened:

``none``    there is no such flow
``marked``  the flow has a mark, and the book (third item) says whether the flow exists
``hint``    an entry must be in the index first: last number, priority, created_at, since when it may be taken
``owned``   owner, epoch and remaining microseconds of a live lease
"""

from __future__ import annotations

from pluggableflow.states import RUNNABLE, UNFINISHED
from pluggableflow_redis.client import Script


def _set(name: str, states: frozenset[str]) -> str:
    return f"local {name} = {{{', '.join(f'{state} = true' for state in sorted(states))}}}"


CLOCK = """
local function int(number) return string.format('%.0f', number) end
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
"""
# One packed argument instead of many: cheaper to send than as many single ones, and as many as there may be.
UNPACK = "local ARGV = cmsgpack.unpack(ARGV[1])"
# A call takes at most some 8,000 unpacked arguments.
WRITE = """
local function put(key, from, count)
  for at = from, from + count - 1, 4000 do
    redis.call('HSET', key, unpack(ARGV, at, math.min(at + 3999, from + count - 1)))
  end
end
local function drop(key, from, count)
  for at = from, from + count - 1, 4000 do
    redis.call('HDEL', key, unpack(ARGV, at, math.min(at + 3999, from + count - 1)))
  end
end
"""
# `see` reads what decides whether and since when a scan may take the flow; `lacks` tells whether the index has no
# entry that brings a scan here in time; `hinted` notes that the entry which was asked for is there now.
HINT = (
    _set("runnable", RUNNABLE)
    + """
local seen = {'uuid', 'parent_uuid', 'mark', 'token', 'lease_expires_at', 'owner', 'epoch', 'state', 'factory',
  'wake_at', 'priority', 'created_at', 'revision', 'hint', 'hint_at'}
local function see()
  local values, flow = redis.call('HMGET', KEYS[1], unpack(seen)), {}
  for at, name in ipairs(seen) do flow[name] = values[at] end
  flow.order = flow.priority
  return flow
end
local function available(flow)
  if not runnable[flow.state] or not flow.factory then return false end
  local at = 0
  if flow.token then at = tonumber(flow.lease_expires_at) end
  if flow.wake_at then at = math.max(at, tonumber(flow.wake_at)) end
  return at
end
local function lacks(flow, time, number, since)
  local at = available(flow)
  if not at then return false end
  local latest = math.max(at, time)
  if flow.order == flow.priority and flow.hint_at and tonumber(flow.hint_at) <= latest then return false end
  local last = tonumber(flow.hint or 0)
  if tonumber(number) == last + 1 and tonumber(since) <= latest then
    flow.take = true
    return false
  end
  if at <= time then at = 0 end
  return {'hint', int(last), flow.priority, flow.created_at, int(at)}
end
local function hinted(flow, number, since)
  if flow.take then redis.call('HSET', KEYS[1], 'hint', number, 'hint_at', since) end
end
local function owned(flow, time)
  if not flow.token then return false end
  local left = tonumber(flow.lease_expires_at or 0) - time
  return left > 0 and {'owned', flow.owner or '', flow.epoch, int(left)}
end
"""
)
# What the flow's columns will be after the pairs from `from` on are set, and the names after them removed.
_OVERLAY = """
local function overlay(flow, from, set, del)
  for at = from, from + set - 1, 2 do
    if ARGV[at] ~= 'mark' then flow[ARGV[at]] = ARGV[at + 1] end
  end
  for at = from + set, from + set + del - 1 do flow[ARGV[at]] = false end
end
"""

_COMMIT_HEAD = """
local held = redis.call('HMGET', KEYS[1], 'token', 'revision', 'atom_count')
if held[1] ~= ARGV[1] then return redis.status_reply('lost') end
if held[2] ~= ARGV[2] then
  return redis.status_reply(tonumber(held[2]) == tonumber(ARGV[2]) + 1 and 'ok' or 'lost')
end
local set, del, changed, added, atom_del = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]),
  tonumber(ARGV[9])
local changes = 10 + set + del
local adds = changes + changed + added
local drops = adds + 2 * added
local atoms = drops + atom_del
local last, count = #ARGV, tonumber(held[3] or 0)
-- A script that fails half-way leaves what it has written, so nothing that could fail comes after a write.
for from = changes, adds - 1, 4000 do
  local to = math.min(from + 3999, adds - 1)
  for at, old in ipairs(redis.call('HMGET', KEYS[2], unpack(ARGV, from, to))) do
    local field, value = ARGV[from + at - 1]
    if from + at <= changes + changed then
      if not old or not string.match(old, '^%d+$') then
        return {old and 'damaged' or 'missing', string.sub(field, 1, -10)}
      end
      value = old + 1
    else
      if old then return {'double', ARGV[adds + 2 * (from + at - 1 - changes - changed)]} end
      count = count + 1
      value = count
    end
    ARGV[last + 1], ARGV[last + 2] = field, value
    last = last + 2
  end
end
local names = {}
for at = adds, drops - 1, 2 do
  local name = ARGV[at]
  if names[name] or redis.call('HEXISTS', KEYS[3], name) == 1 then return {'double', name} end
  names[name] = true
end
local time = clock()
"""
_COMMIT_TAIL = """
redis.call('HSET', KEYS[1], 'updated_at', time, unpack(ARGV, 10, 9 + set))
drop(KEYS[1], 10 + set, del)
if added > 0 then redis.call('HSET', KEYS[1], 'atom_count', count) end
put(KEYS[3], adds, drops - adds)
put(KEYS[2], atoms, last - atoms + 1)
drop(KEYS[2], drops, atom_del)
return redis.status_reply('ok')
"""

#: Packed: token, revision, hint number, since, counts of: flow values, flow removals, changed atoms, added atoms, atom
#: removals; then flow values, flow removals, ``A:revision`` of the changed atoms, ``A:position`` of the added ones,
#: their names each with its uuid, atom removals, atom values.
COMMIT = Script(UNPACK, CLOCK, WRITE, _COMMIT_HEAD, _COMMIT_TAIL)

#: The same for changes that concern scans.
COMMIT_SCANNED = Script(
    UNPACK,
    CLOCK,
    WRITE,
    HINT,
    _OVERLAY,
    _COMMIT_HEAD,
    """
local flow = see()
overlay(flow, 10, set, del)
local wanting = lacks(flow, time, ARGV[3], ARGV[4])
if wanting then return wanting end
hinted(flow, ARGV[3], ARGV[4])
""",
    _COMMIT_TAIL,
)

#: Packed: checked mark, hint number, since, whether the atoms must be there, counts of: flow values, flow removals,
#: atom values, atom removals, atoms; then these.
UPDATE = Script(
    UNPACK,
    CLOCK,
    WRITE,
    HINT,
    _OVERLAY,
    """
local flow, time = see(), clock()
if not flow.uuid then return {'none'} end
if flow.mark and flow.mark ~= ARGV[1] then return {'marked', flow.mark, flow.parent_uuid} end
local set, del, atom_set, atom_del = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local atoms = 10 + set + del
local list = atoms + atom_set + atom_del
local last = list + 2 * tonumber(ARGV[9]) - 1
for at = list, last, 2 do
  if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[2], ARGV[at] .. ':uuid') == 0 then return {'missing', ARGV[at]} end
end
local live = owned(flow, time)
if live then return live end
local names = {}
for at = list, last, 2 do
  local other = names[ARGV[at + 1]] or redis.call('HGET', KEYS[3], ARGV[at + 1])
  if other and other ~= ARGV[at] then return {'double', ARGV[at + 1]} end
  names[ARGV[at + 1]] = ARGV[at]
end
overlay(flow, 10, set, del)
local wanting = lacks(flow, time, ARGV[2], ARGV[3])
if wanting then return wanting end
hinted(flow, ARGV[2], ARGV[3])
if set > 0 then redis.call('HSET', KEYS[1], 'updated_at', int(time), unpack(ARGV, 10, 9 + set)) end
drop(KEYS[1], 10 + set, del)
redis.call('HINCRBY', KEYS[1], 'revision', 2)
for at = list, last, 2 do
  local old = redis.call('HGET', KEYS[2], ARGV[at] .. ':name')
  if old and old ~= ARGV[at + 1] then redis.call('HDEL', KEYS[3], old) end
end
put(KEYS[2], atoms, atom_set)
drop(KEYS[2], atoms + atom_set, atom_del)
for at = list, last, 2 do
  redis.call('HSET', KEYS[3], ARGV[at + 1], ARGV[at])
  if redis.call('HEXISTS', KEYS[2], ARGV[at] .. ':position') == 0 then
    redis.call('HSET', KEYS[2], ARGV[at] .. ':position', redis.call('HINCRBY', KEYS[1], 'atom_count', 1))
  end
end
return {'ok'}
""",
)

_CHECK_MARK = """
local mark = redis.call('HMGET', KEYS[1], 'uuid', 'mark', 'parent_uuid')
if not mark[1] then return {'none'} end
if mark[2] and mark[2] ~= ARGV[1] then return {'marked', mark[2], mark[3]} end
"""

#: checked mark, whether with atoms. Answer: the flow's fields, the fields of its atoms.
READ = Script(
    _CHECK_MARK,
    """
return {'ok', redis.call('HGETALL', KEYS[1]), ARGV[2] == '1' and redis.call('HGETALL', KEYS[2]) or {}}
""",
)

#: checked mark, atom, its fields. Answer: their values.
READ_ATOM = Script(
    _CHECK_MARK,
    """
if redis.call('HEXISTS', KEYS[2], ARGV[2] .. ':uuid') == 0 then return {'none'} end
return {'ok', redis.call('HMGET', KEYS[2], unpack(ARGV, 3))}
""",
)

#: checked mark, kind, author. Answer: the sequence.
REQUEST = Script(
    _set("unfinished", UNFINISHED),
    _CHECK_MARK,
    """
local state = redis.call('HGET', KEYS[1], 'state')
if not unfinished[state] then return {'finished', state} end
local sequence = redis.call('HINCRBY', KEYS[1], 'request_sequence', 1)
redis.call('HSET', KEYS[1], 'request', ARGV[2], 'request_by', ARGV[3])
return {'ok', sequence}
""",
)
