"Pictures in an object store: a real server that speaks S3, on loopback, for what `--keep_images s3://...` does"
import time

import pytest

from retina_nb.core import SettingError
from retina_nb.serve import Store, StoreError, get_picture, pictures_at
from retina_nb.serve.bucket import _bucket
from retina_nb.serve.kept import claim_place, owners, pictures_in, put_picture

from conftest import a_grading, add_model, kept_photo as photo
from stores import KEYS

@pytest.fixture
def env(s3, cloud_env): return cloud_env

def names(where): return sorted(name for _, name, _ in pictures_at(where).files() if not name.startswith('.'))

def test_what_a_folder_does_a_bucket_does_too(s3, tmp_path):
    for where in (s3, str(tmp_path/'eyes')):
        pictures, data = pictures_at(where), b'\xff\xd8\xff an eye'
        path = put_picture(pictures, data)
        sha = photo(data).sha256
        assert put_picture(pictures, data) == path and pictures.size(path) == len(data)
        assert get_picture(path, sha) == data
        with pytest.raises(StoreError, match='was changed'): get_picture(path, '0'*64)
        assert [(p, s) for p, s in pictures_in(pictures, age=-60)] == [(path, sha)] and list(pictures_in(pictures)) == []
        claim_place(pictures, 'one')
        claim_place(pictures, 'one')
        with pytest.raises(SettingError, match='another store'): claim_place(pictures, 'two')
        assert owners(pictures) == {'one'}
        pictures.drop(path)
        pictures.drop(path)
        assert pictures.size(path) == -1
        with pytest.raises(StoreError, match='cannot be read'): get_picture(path, sha)

def test_a_store_keeps_replays_checks_and_erases(s3, url, tmp_path):
    with Store(url, keep_images=s3) as store:
        add_model(store)
        for n in range(3):
            store.record([photo(f'\xff\xd8\xff {n}'.encode('latin-1'), patient=f'P{n%2}')], [a_grading(n)], key=f'k{n}')
        a = store.record([photo(b'\xff\xd8\xff 0', patient='P0')], [a_grading(0)], key='again') # is kept once
        assert len(names(s3)) == 3 and store.check() == [] and store.status()['kept'] == 4
        kept = a.predictions[0].kept
        assert kept.startswith(f'{s3}/') and get_picture(store.kept_path(kept), a.predictions[0].sha256) == b'\xff\xd8\xff 0'
        assert store.erase('P0') == dict(photographs=3, predictions=3, requests=3, pictures=2)
        assert len(names(s3)) == 1 and store.check() == []
        pictures = pictures_at(s3)
        pictures.write(pictures.at(names(s3)[0]), b'other bytes')
        assert ['was changed' in f for f in store.check()] == [True]
        pictures.drop(pictures.at(names(s3)[0]))
        assert ['cannot be read' in f for f in store.check()] == [True]
    with pytest.raises(SettingError, match='another store'): Store(tmp_path/'other', keep_images=s3)

def test_what_cannot_be_kept_is_not_answered(s3, url, env):
    "The store cannot be reached: an error of one line, nothing stored, and the next answer is stored again"
    with Store(url, keep_images=s3) as store:
        add_model(store)
        eye = [photo(b'\xff\xd8\xff lost')], [a_grading(1)]
        good = store.pictures
        env.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9')
        store.pictures = pictures_at(s3)
        begin = time.time()
        with pytest.raises(StoreError, match='cannot be reached') as e: store.record(*eye, key='one')
        assert time.time() - begin < 30 and '\n' not in str(e.value) and KEYS['AWS_SECRET_ACCESS_KEY'] not in str(e.value)
        assert store.status()['request'] == 0
        store.pictures = good
        assert store.record(*eye, key='one').repeated is False and store.status()['kept'] == 1

@pytest.mark.parametrize('wrong, says', [
    (dict(AWS_ACCESS_KEY_ID='stranger'), 'these keys may not'), (dict(AWS_SECRET_ACCESS_KEY='guessed'), 'these keys may not'),
    (dict(AWS_ACCESS_KEY_ID=''), 'needs keys'), (dict(AWS_ENDPOINT_URL='http://objects.example'), 'unencrypted'),
    (dict(AWS_ENDPOINT_URL='ftp://objects.example'), 'no address'), (dict(AWS_ENDPOINT_URL='http://127.0.0.1:9'), 'cannot be reached')])
def test_a_service_says_at_once_what_is_wrong(s3, env, tmp_path, wrong, says):
    for k, v in wrong.items(): env.setenv(k, v)
    _bucket.cache_clear()
    with pytest.raises((StoreError, SettingError), match=says) as e: Store(tmp_path/'store', keep_images=s3)
    assert '\n' not in str(e.value) and KEYS['AWS_SECRET_ACCESS_KEY'] not in str(e.value)

@pytest.mark.parametrize('where', ['gs://clinic/eyes', 's3://', 's3://name:secret@clinic/eyes', 's3://clinic/../x', 's3://Clinic/x',
                                   's3://clinic/a?versionId=1', 'https://clinic.example/eyes', 'file:///tmp/x'])
def test_other_addresses_are_refused(env, tmp_path, where):
    with pytest.raises(SettingError) as e: Store(tmp_path/'store', keep_images=where)
    assert 'secret' not in str(e.value) and not any('x' == p.name for p in tmp_path.iterdir())
