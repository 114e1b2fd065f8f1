"The service with four at once: nothing is lost, nobody waits for a network that is not there, memory stays where it is"
import http.client, io, random, threading, time
from pathlib import Path

import pytest
from PIL import Image

from retina_nb.serve import Store
from retina_nb.synth import synth_eye
from random_model import shared
from clients import Process, large, picture, together

@pytest.fixture(scope='module')
def room(tmp_path_factory):
    d = tmp_path_factory.mktemp('load')
    with Process(d, shared()[1], d/'store') as p: yield p.ready(), d/'store'

def memory(process, what='VmRSS'):
    "Megabytes of a process: now, or the most that it ever had (VmHWM)"
    status = Path(f'/proc/{process.proc.pid}/status')
    if not status.exists(): pytest.skip('no /proc here: memory of another process cannot be read')
    return next(int(l.split()[1])/1024 for l in status.read_text().splitlines() if l.startswith(what))

def grades(ask, prefix, photos, rng, over=lambda i: i == 6):
    "Photographs one after another, each a file of its own, until it is over; id and grade of each answer"
    said, i = [], 0
    while not over(i):
        r = ask.grade(rng.choice(photos) + rng.randbytes(8), dict(patient=f'P{rng.randrange(99)}', i=i), key=f'{prefix}-{i}')
        assert r.status == 200, r.body
        said.append((r.json['gradings'][0]['id'], r.json['grade']))
        i += 1
    return said

def stored(db):
    with Store(db) as s:
        assert s.check() == []
        return {p.id: p.grading.grade for p, _ in s.answers()}

def test_four_at_once_lose_nothing(room):
    p, db = room
    before, photos = stored(db), [picture(i, 160 + 40*i) for i in range(4)]
    said = together(4, lambda i: grades(p.ask, f'user{i}', photos, random.Random(i)))
    assert not [s for s in said if isinstance(s, Exception)], said
    answers = {id: grade for s in said for id, grade in s}
    there = stored(db)
    assert len(answers) == 24 and {k: v for k, v in there.items() if k not in before} == answers
    assert {l['event'] for l in p.lines()} <= {'ready', 'request'}

def test_answers_are_not_held_back(room):
    conn, took = http.client.HTTPConnection('127.0.0.1', room[0].ask.port, timeout=30), []
    for _ in range(20):
        begin = time.perf_counter()
        conn.request('GET', '/v1/health/live')
        assert conn.getresponse().read()
        took.append(time.perf_counter() - begin)
    conn.close()
    assert min(took) < .03 # Nagle's algorithm and an acknowledgement that is put off make .04 of each

def test_alive_while_photographs_are_graded(room):
    "Not how fast, which a busy machine decides, but whether gradings keep it waiting: none takes the loop for long"
    p, big, took = room[0], large(10), []
    busy = threading.Thread(target=lambda: together(4, lambda i: [p.ask.grade(big + bytes([i, j])) for j in range(3)]))
    busy.start()
    while busy.is_alive():
        begin = time.perf_counter()
        assert p.ask('GET', '/v1/health/live').status == 200
        took.append(time.perf_counter() - begin)
        time.sleep(.02)
    assert len(took) > 5 and sorted(took)[len(took)//2] < .5

@pytest.mark.full
def test_memory_stays_where_it_is(tmp_path):
    photos = [picture(i, 300 + 60*i) for i in range(20)]
    with Process(tmp_path, shared()[1], tmp_path/'s') as p:
        p.ready()
        end, samples = time.time() + 60, []
        def _watch():
            while time.time() < end:
                samples.append((end - time.time(), memory(p)))
                time.sleep(.5)
        def _send(i): return _watch() if i == 4 else grades(p.ask, f'u{i}', photos, random.Random(i), over=lambda _: time.time() > end)
        said = together(5, _send)
        assert not [s for s in said if isinstance(s, Exception)], said
    first, last = ([mb for left, mb in samples if a < left <= b] for a, b in ((30, 40), (0, 10)))
    assert sum(last)/len(last) < 1.05*sum(first)/len(first)
    assert len(stored(tmp_path/'s')) == sum(len(s) for s in said[:4]) > 40

@pytest.mark.full
def test_large_photographs_at_once_take_the_memory_that_they_may(tmp_path):
    f = io.BytesIO()
    Image.fromarray(synth_eye(1, grade=2, size=400).image).resize((4000, 2500)).save(f, 'PNG', compress_level=1)
    eye = f.getvalue()
    with Process(tmp_path, shared()[1], tmp_path/'s', limits='Limits(memory_mb=300, workers=8, in_flight=32)') as p:
        p.ready()
        p.ask.grade(picture(0))
        before = memory(p)
        rs = together(16, lambda i: p.ask.grade(eye, key=f'k{i}', timeout=300))
        assert {getattr(r, 'status', r) for r in rs} == {200}
        bodies = 3*16*len(eye)/2**20 # as they came, as files, and what the allocator rounds up
        assert memory(p, 'VmHWM') - before < 300 + bodies
