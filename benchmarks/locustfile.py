"""Users who send photographs of 10 megapixels one after another, for locust (https://locust.io) against a service that runs:

    locust -f benchmarks/locustfile.py --headless -u 4 -r 4 -t 60s --host http://127.0.0.1:8000

`bench_service.py` starts both. RETINA_NB_KEY is the access key, where the service asks for one. With `--csv PREFIX` the processor
time that this client took itself, on what may be the same cores, goes to PREFIX_client.json."""
import itertools, json, os, random, time, uuid

from locust import HttpUser, constant, events, task

from soak import pictures

OWN = 3 # pictures of each user
_pictures = pictures(4*OWN, seed=100, least=10, most=10) # made before anything is timed
_numbers, _begun = itertools.count(), []

@events.test_start.add_listener
def _begin(environment, **_): _begun[:] = [time.process_time(), time.perf_counter()]

@events.test_stop.add_listener
def _end(environment, **_):
    prefix = environment.parsed_options.csv_prefix
    took = dict(cpu=time.process_time() - _begun[0], seconds=time.perf_counter() - _begun[1])
    if prefix: open(f'{prefix}_client.json', 'w').write(json.dumps(took))

class Camera(HttpUser):
    "Sends, waits for the answer, sends the next"
    wait_time = constant(0)
    def on_start(self):
        n = next(_numbers) % 4
        self.rng, self.own = random.Random(n), _pictures[OWN*n:OWN*(n + 1)]
        if key := os.environ.get('RETINA_NB_KEY'): self.client.headers['Authorization'] = f'Bearer {key}'
    @task
    def grade(self):
        photo = self.rng.choice(self.own) + self.rng.randbytes(8) # behind a JPEG's end nobody looks: a file of its own all the same
        tags = dict(hospital=self.rng.choice('ABC'), age=self.rng.randrange(20, 90), eye=self.rng.choice(['left', 'right']),
                    patient=f'P{self.rng.randrange(5000)}')
        path, name = f'/v1/gradings/{uuid.uuid4().hex}', 'PUT /v1/gradings/{key}'
        with self.client.put(path, files=dict(file=('eye.jpg', photo)), data=dict(tags=json.dumps(tags)), name=name, catch_response=True) as r:
            if r.status_code != 200: r.failure(f'{r.status_code}: {r.text[:100]}')
            elif r.json()['grade'] is None: r.failure('no grade')
