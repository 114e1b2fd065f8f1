"Weeks of answers, written into a store at once: what is out of the ordinary is told by hospital, machine and day"
import math, random
from datetime import UTC, datetime, timedelta

from conftest import MODEL
from retina_nb.serve.stream import FEATURES
from retina_nb.serve.schema import image, prediction, request, subject

SCREENING, DIABETIC = (.70, .08, .14, .05, .03), (.35, .15, .28, .13, .09)
MACHINES = ('A', 'A1'), ('A', 'A2'), ('B', 'B1'), ('B', 'B2')
START = datetime(2026, 5, 4, 8, tzinfo=UTC)

def probabilities(rng, grade, sure=1.):
    "What a fairly good model says of an eye of a grade"
    x = grade + rng.gauss(0, .6)
    ps = [p*math.exp(-(x - i)**2/.72*sure) for i, p in enumerate(SCREENING)]
    return [p/sum(ps) for p in ps]

def _visit(rng, at, h, m, day, i, eyes, shares, what, model, role, tags):
    "Rows of one visit: subject, images, request, predictions"
    odd = what(h, m, day)
    id = lambda: f'{rng.getrandbits(96):024x}'
    s, r, grade, sharp = id(), id(), rng.choices(range(5), shares(h, m, day))[0], rng.gauss(odd.get('sharpness', .4), .08)
    rows = dict(subject=[dict(id=s, key=f'k{s}', secret='s', made=at)], image=[], prediction=[], request=[dict(
        id=r, key=None, body='b', client='c', state='done', begun=at, done=at, tags=tags(h, m, at))])
    for e in range(eyes):
        ps, im = probabilities(rng, grade, odd.get('sure', 1.)), id()
        measures = {k: rng.gauss(.4, .1) for k in FEATURES[:10]} | dict(sharpness=sharp + rng.gauss(0, .01))
        rows['image'].append(dict(id=im, sha256=(im*3)[:64], subject=s, hmac='', size=1, kind='jpg', name='', kept='', at=at))
        rows['prediction'].append(dict(
            id=id(), request=r, image=im, bundle=model(h, m, day), place=e, role=role, precision='fp32', probabilities=ps, error='', at=at,
            grade=max(range(5), key=ps.__getitem__), referable=sum(ps[2:]) >= .4, positive=sum(ps[2:]), threshold=.4, novelty=None, novel=None,
            quality=dict(ok=True, score=.9, reasons=[]) | (dict(measures=measures) if odd.get('measured', True) else {}), seconds={},
            more=dict(model='m', ungradable='', trained_on='')))
    return rows

def tagged(h, m, at): return dict(hospital=h, machine=m, taken=at.isoformat())

def fill(store, days=21, a_day=12, *, machines=MACHINES, eyes=1, shares=lambda h, m, d: SCREENING, what=lambda h, m, d: {},
         model=lambda h, m, d: MODEL, role='live', tags=tagged, seed=0, shuffled=False):
    "Write weeks of visits; how many predictions there are"
    rng, visits = random.Random(seed), []
    for d in range(days):
        for i in range(a_day):
            for h, m in machines:
                at = START + timedelta(days=d, minutes=40*i + rng.random()*20)
                visits.append(_visit(rng, at, h, m, d, i, eyes, shares, what, model, role, tags))
    if shuffled: rng.shuffle(visits)
    def _job(conn, note):
        for lo in range(0, len(visits), 2000):
            for t in (subject, image, request, prediction):
                conn.execute(t.insert(), [r for v in visits[lo:lo + 2000] for r in v[t.name]])
    store.write(_job)
    return len(visits)*eyes
