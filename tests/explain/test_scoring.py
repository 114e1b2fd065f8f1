"Marks of maps: masks through the frame, maps that say nothing, chance, patients, models that have learned nothing"
import numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
from retina_nb.core import DataError, SettingError
from retina_nb.explain import coverage, mark_maps, other_eyes, rank_agreement, score_explanations, truths, untrained
from retina_nb.image import Preprocess
from retina_nb.synth import synth_eye, write_synth
from retina_nb.train import GradingModel, Net, make_loss

def model(arch='test_resnet', size=64, k=5):
    torch.manual_seed(0)
    return GradingModel(Net(arch, k), make_loss('ce', k), Preprocess(size=size)).eval()

@pytest.mark.parametrize('camera', 'ABC')
def test_masks_follow_the_photograph(camera):
    "A lesion that is painted white in the photograph is where its mask says in the model's input"
    eye, pre = synth_eye(7, grade=0, size=256, camera=camera), Preprocess(size=96)
    h, w = eye.image.shape[:2]
    mask = np.zeros((h, w), bool)
    mask[h//2-9:h//2+9, w//2+11:w//2+29] = True
    painted = np.where(mask[...,None], np.uint8(255), eye.image)
    seen = (pre(painted).astype(int) - pre(eye.image)).sum(-1)
    carried = coverage(pre, eye.image, mask)
    assert abs(np.array(np.nonzero(seen > seen.max()/2)).mean(1) - np.array(np.nonzero(carried > .5)).mean(1)).max() < .75
    assert coverage(pre, eye.image, ~mask & False).max() == 0 and coverage(pre, eye.image, np.ones_like(mask)).max() == 1

def test_truths_are_of_the_photographs_on_disk(tmp_path):
    write_synth(tmp_path/'d', 6, size=96, prevalence=(0,0,.5,.5,0))
    from retina_nb.data import load_records
    records = load_records(tmp_path/'d')
    images, lesions, field = truths(records, Preprocess(size=64))
    assert images.shape == (6,64,64,3) and lesions.any((1,2)).all() and field.mean() > .5 and not (lesions & ~field).sum() > .02*lesions.sum()
    from PIL import Image
    Image.new('RGB', (50, 40)).save(records.image[0])
    with pytest.raises(DataError, match='not the picture that was drawn'): truths(records.assign(), Preprocess(size=64))

def test_truths_of_scans_are_where_the_finding_is(tmp_path):
    from retina_nb.data import load_records
    from retina_nb.synth import synth_scan, write_scans
    write_scans(tmp_path/'d', 16)
    records, pre = load_records(tmp_path/'d', 'oct', warn=False), Preprocess.for_task('oct', size=64)
    images, lesions, field = truths(records, pre)
    normal = (records.label == 3).to_numpy()
    assert images.shape == (16,64,64,3) and field.all(axis=(1,2)).all() and not lesions[normal].any() and lesions[~normal].any((1,2)).all()
    row = records[records.label == 1].iloc[0]                    # DME: fluid is darker than the layers around it
    drawn = synth_scan(int(row.seed), 1)
    one = truths(records[records.label == 1].head(1), pre)
    hole = coverage(pre, drawn.image, drawn.masks['fluid'])[None] > .9
    assert hole.any() and not (hole & ~one[1]).any() and one[0][hole].mean() < one[0][~hole].mean()
    for broken, said in ((records.drop(columns='seed'), 'no seed'), (records.assign(label=pd.NA), 'no label')):
        with pytest.raises(DataError, match=said): truths(broken, pre)
    from PIL import Image
    Image.new('RGB', (50, 40)).save(records.image[0])
    with pytest.raises(DataError, match='not the picture that was drawn'): truths(records, pre)

def test_marks_of_maps_that_say_nothing_are_chance():
    rng = np.random.default_rng(0)
    lesions, field = rng.random((4,16,16)) < .2, np.ones((4,16,16), bool)
    got = mark_maps(np.zeros((4,16,16)), lesions, field)
    assert np.allclose(got.pointing, got.chance) and np.allclose(got.energy, got.chance)
    uniform = mark_maps(np.ones((4,16,16)), lesions, field)
    assert np.allclose(uniform.pointing, uniform.chance) and np.allclose(uniform.energy, uniform.chance)

def test_what_lies_outside_the_field_does_not_count():
    lesions, field = np.zeros((1,8,8), bool), np.zeros((1,8,8), bool)
    lesions[0,4,4], field[0,2:6,2:6] = True, True
    heat = np.zeros((1,8,8)); heat[0,0,0], heat[0,4,4] = 100, 1
    assert mark_maps(heat, lesions, field, tolerance=0).iloc[0].tolist() == [1, 1, 1/16]

def test_random_maps_earn_chance_and_perfect_ones_all():
    rng = np.random.default_rng(1)
    lesions, field = rng.random((60,16,16)) < .1, np.ones((60,16,16), bool)
    maps = dict(noise=rng.random((60,16,16)), perfect=lesions.astype(float))
    t = score_explanations(maps, lesions, field, [f'{i//2}' for i in range(60)], tolerance=0).set_index(['map','mark'])
    assert t.value['perfect','pointing'] == 1 and t.diff_low['perfect','energy'] > .8
    assert t.diff_low['noise','energy'] < 0 < t.diff_high['noise','energy'] + .01
    versus = score_explanations(maps, lesions, field, list(range(60)), against='noise', tolerance=0).set_index(['map','mark'])
    assert versus.difference['noise','energy'] == 0 and versus.diff_low['perfect','energy'] > .5
    with pytest.raises(SettingError, match='no map'): score_explanations(maps, lesions, field, list(range(60)), against='noises')

def test_other_eyes_never_comes_from_the_same_patient():
    who = np.repeat([f'p{i}' for i in range(5)], [3,1,2,2,2])
    given = other_eyes(np.arange(10)[:,None,None]*np.ones((1,2,2)), who)[:,0,0].astype(int)
    assert (who[given] != who).all() and sorted(given) == list(range(10))

def test_untrained_leaves_the_model_and_the_generator_alone():
    m = model()
    before, state = m.head.weight.clone(), torch.get_rng_state()
    u = untrained(m, seed=1)
    assert torch.equal(m.head.weight, before) and torch.equal(torch.get_rng_state(), state) and not torch.equal(next(u.body.parameters()), next(m.body.parameters()))

def test_rank_agreement_of_noise_is_nothing():
    a = np.random.default_rng(0).random((5,20,20))
    assert abs(np.mean(rank_agreement(a, np.random.default_rng(1).random((5,20,20)), np.ones((5,20,20), bool)))) < .1

@pytest.mark.parametrize('how', [dict(), dict(via=128, via_quality=None), dict(crop='none'), dict(crop='none', fit='cut'), dict(crop='none', fit='squash')], ids=str)
def test_a_picture_that_is_its_own_mask_comes_out_the_same_both_ways(how):
    eye, pre = synth_eye(3, grade=3, eye='right', size=300), Preprocess(size=96, **how)
    drawn = eye.image.max(-1) > 60
    white = np.repeat(drawn[..., None].astype(np.uint8)*255, 3, 2)
    assert np.abs(coverage(pre, eye.image, drawn) - pre.frame(eye.image).apply(white)[..., 0]/255).max() < 1.1/255


def test_a_map_without_any_model_points_at_spots():
    "The control that chance hides: lesions are small contrasts, and a photograph minus its blur shows them"
    from retina_nb.explain import detail_maps
    images = np.full((3, 64, 64, 3), 90, np.uint8); lesions = np.zeros((3, 64, 64), bool); lesions[:, 30:34, 40:44] = True
    images[lesions] = (200, 90, 40)
    got = mark_maps(detail_maps(images), lesions, np.ones_like(lesions))
    assert (got.pointing == 1).all() and (got.energy > 5*got.chance).all() and detail_maps(images).dtype == np.float32

def test_chance_of_coarse_maps_is_not_that_of_pixels():
    from retina_nb.explain import coarse_chance
    middle = np.zeros((20, 64, 64), bool); middle[:, 20:44, 20:44] = True; seen = np.ones_like(middle)
    coarse = coarse_chance(middle, seen, 4, draws=30).mean(); edge = coarse_chance(~middle, seen, 4, draws=30).mean()
    assert coarse.pointing > coarse.chance + .02 and edge.pointing < edge.chance and abs(coarse.energy - coarse.chance) < .05 # peaks lie in the middle of cells

def test_ten_untrained_models_differ():
    from retina_nb.explain import grad_cam, untrained_maps
    net = model(); size = net.preprocess.size
    x = np.random.default_rng(0).integers(0, 255, (2, size, size, 3), np.uint8)
    maps = untrained_maps(net, grad_cam, x, (1, 2), seeds=3)
    assert len(maps) == 3 and all(m.shape == (2, size, size) for m in maps) and not np.allclose(maps[0], maps[1])
    assert np.allclose(maps[2], untrained_maps(net, grad_cam, x, (1, 2), seeds=3)[2])
