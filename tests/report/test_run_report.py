"The page of a run: complete, closed, printable, and honest about damaged runs"
import html, json, re, shutil, subprocess
from pathlib import Path

import pytest

from retina_nb.core import DISCLAIMER, Run, RunError, get_task
from retina_nb.measure import example_predictions
from retina_nb.report import example_run, group_tags, pick_cases, report, report_notebook
from browsers import CHROMIUM, in_browser

HEADS = ['In plain words', 'Data', 'Training', 'Scores', 'By patient', 'Where every photograph ended', 'Confusion matrix', 'Calibration', 'Operating point',
         'Is it worth using?', 'When to abstain', 'Subgroups', 'Cases', 'Model card']

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return example_run(tmp_path_factory.mktemp('report')/'<first>', n=60).path

@pytest.fixture
def run(whole, tmp_path): return Path(shutil.copytree(whole, tmp_path/'<first>'))

def closed(text):
    "Nothing is fetched and nothing is run"
    return not re.findall(r'(?:src|href)\s*=\s*"(?!data:|#)[^"]*"|url\(|@import', text) and '<script' not in text and 'http-equiv' not in text

@pytest.fixture(scope='module')
def by_command(whole, command, tmp_path_factory):
    "A page as the command makes it, with its notebook beside it, and what was said"
    out = tmp_path_factory.mktemp('page')
    return out, command('retina_report', whole, '--out', out/'page.html', '--notebook', out/'page.ipynb')

def test_by_its_command(by_command, whole):
    out, done = by_command
    assert done.returncode == 0, done.stderr
    text, m = (out/'page.html').read_text(), json.loads((whole/'metrics.json').read_text())
    assert closed(text) and len(text) < 5e6 and text.count(DISCLAIMER) == 1
    heads = re.findall('<h2[^>]*>([^<]*)', text)
    assert re.findall('<a href="#([^"]*)">', text) == re.findall('<section id="([^"]*)"', text)
    assert heads == HEADS and 'report' in done.stdout and 'next: retina_export' in done.stderr
    assert f"{m['qwk']['value']:.3f}" in text and f"{m['referable']['sensitivity']['ci95'][0]:.3f}" in text
    assert '&lt;first&gt;' in text and '<first>' not in text and '&amp;lt;' not in text and 'Traceback' not in text
    assert text.count('<img') >= 8 and all(re.search('alt="[^"]+"', i) for i in re.findall('<img[^>]*>', text))
    cells = json.loads((out/'page.ipynb').read_text())['cells']
    assert [c['metadata']['tags'] for c in cells if 'parameters' in c['metadata'].get('tags', [])] == [['parameters']]

@in_browser
def test_it_opens_without_a_network_and_prints(by_command, tmp_path):
    page = by_command[0]/'page.html'
    done = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--host-resolver-rules=MAP * ~NOTFOUND', f'--user-data-dir={tmp_path/"profile"}',
                           '--no-pdf-header-footer', f'--print-to-pdf={tmp_path/"page.pdf"}', page.as_uri()], capture_output=True, timeout=120)
    pdf = (tmp_path/'page.pdf').read_bytes()
    assert pdf.startswith(b'%PDF') and 5 <= len(re.findall(rb'/Type\s*/Page\b', pdf)) <= 16 and len(pdf) < 5e6, done.stderr[-500:]

@pytest.mark.parametrize('file, spoil, words', [
    ('history.csv', lambda t: t[:len(t)//2], 'history.csv'), ('history.csv', lambda t: t[:4], 'history.csv'), ('history.csv', lambda t: '', 'history.csv'),
    ('history.csv', lambda t: t.replace('1.2', 'many', 1), 'history.csv'), ('predictions.csv', lambda t: t[:len(t)//2], 'predictions.csv'),
    ('predictions.csv', lambda t: t.replace('target', 'truth', 1), 'predictions.csv'), ('records.csv', lambda t: 'nothing\n1\n', 'records.csv'),
    ('metrics.json', lambda t: t[:len(t)//2], 'metrics.json'), ('metrics.json', lambda t: '{}', 'metrics.json'), ('config.json', lambda t: '{', 'config.json')])
def test_a_damaged_run_is_one_line_that_names_the_file(file, spoil, words, run):
    f = run/file
    f.write_text(spoil(f.read_text()))
    with pytest.raises(RunError, match=words): report(run)
    assert not (run/'report.html').exists()

def test_damage_by_the_command(typed, run):
    (run/'history.csv').write_text((run/'history.csv').read_text()[:70])
    done = typed('retina_report', run)
    assert done.returncode == 2 and 'history.csv' in done.stderr and len(done.stderr.strip().splitlines()) == 1
    (run/'metrics.json').unlink()
    done = typed('retina_report', run)
    assert done.returncode == 2 and '--resume' in done.stderr and len(done.stderr.strip().splitlines()) == 1

@pytest.mark.parametrize('task, drop, gone', [('oct', (), ()), ('pneumonia_type', (), ()), ('dr', [f'p_{i}' for i in range(5)], ('Calibration', 'Operating point', 'Is it worth using?', 'When to abstain')),
                                              ('dr', ('eye', 'hospital', 'age'), ('Subgroups',))])
def test_only_sections_that_the_run_can_fill(task, drop, gone, tmp_path):
    run = example_run(tmp_path/'r', task, n=60, drop=drop)
    heads = re.findall('^## (.*)$', '\n'.join(c.source for c in report_notebook(run).cells if c.cell_type == 'markdown'), re.M)
    assert heads == [get_task(task).say(h) for h in HEADS if h not in gone]

@pytest.mark.full
@pytest.mark.parametrize('task, drop', [('oct', ()), ('pneumonia', ()), ('dr', [f'p_{i}' for i in range(5)]), ('dr', ('eye', 'hospital', 'age'))])
def test_every_kind_of_run_becomes_a_page(task, drop, tmp_path):
    text = report(example_run(tmp_path/'r', task, n=60, drop=drop)).read_text()
    assert closed(text) and 'Model card' in text

def test_a_template_must_take_the_run(run, tmp_path):
    (tmp_path/'t.ipynb').write_text(json.dumps(dict(cells=[], metadata={}, nbformat=4, nbformat_minor=5)))
    with pytest.raises(RunError, match='parameters'): report(run, template=tmp_path/'t.ipynb')
    (tmp_path/'t.ipynb').write_text('{')
    with pytest.raises(RunError, match='not readable as a notebook'): report(run, template=tmp_path/'t.ipynb')

def test_an_error_in_a_cell_is_one_line(run, tmp_path):
    cells = [dict(cell_type='code', id='a', metadata=dict(tags=['parameters']), source='', outputs=[], execution_count=None),
             dict(cell_type='code', id='b', metadata={}, source='1/0', outputs=[], execution_count=None)]
    (tmp_path/'t.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    with pytest.raises(RunError, match='ZeroDivisionError'): report(run, template=tmp_path/'t.ipynb')
    assert not (run/'report.html').exists()

@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    "A run of an evil name, with warnings of strangers, six of whose images got no grade; and its page"
    from retina_nb.measure import evaluate
    run = example_run(tmp_path_factory.mktemp('odd')/'[x](http:__a.example) ![p](b.png) $a$ <b>', n=40)
    d = run.predictions
    d.assign(ungradable=[True]*6 + [False]*(len(d)-6)).to_csv(run.path/'predictions.csv', index=False)
    m = dict(evaluate(run.path/'predictions.csv', 'dr', n_boot=20))
    m['warnings'] = ['![](https://evil.example/p.png) [here](https://evil.example) <script>alert(1)</script>']
    (run.path/'metrics.json').write_text(json.dumps(m))
    run.seal()
    return Run(run.path), report(Run(run.path)).read_text()

def test_what_a_run_is_called_stays_text(odd):
    "Links, pictures, formulas and tags in names, tags and warnings are words on the page"
    text = odd[1]
    assert closed(text) and 'evil.example' in text and not re.search('<a [^>]*example', text) and text.count('<img') == text.count('src="data:')
    assert re.search(r'<h1>[^<]*\[x\]\(http:__a.example\)', text)

def test_the_page_says_what_was_seen_and_of_whom(tmp_path):
    from retina_nb.data import source_badge
    from retina_nb.report import model_card, plain_words, source_table, trained_on
    run = example_run(tmp_path/'r', n=40)
    drawn = run.records.assign(source='synth')
    drawn.to_csv(run.path/'records.csv', index=False)
    run = Run(run.path)
    run.seal()
    run = Run(run.path)
    assert source_badge(trained_on(run)) == 'trained on synthetic eyes' and source_table(run)['Drawn by a program'].sum() == len(drawn)
    words, card = ' '.join(plain_words(run)), model_card(run).set_index('')[' ']
    assert 'trained on synthetic eyes' in words and 'nothing of how it would do on photographs' in words and card['Made by'] == 'trained on synthetic eyes'
    assert re.search(r'validation 80 images of 40 patients, 80 of them drawn by a program; test', card['Data'])
    lead = report_notebook(run).cells[0].source
    assert 'trained on synthetic eyes' in html.unescape(lead)

def test_images_without_a_grade_are_on_the_page(odd, tmp_path):
    from retina_nb.report import patient_table, plain_words
    run, page = odd[0], html.unescape(odd[1])
    assert any('6 of 80 images got no grade' in s for s in plain_words(run)) and patient_table(run.metrics).shape[1] == 7
    assert '6 of 80 images got no grade' in page and 'All images, ungradable as referred' in page and 'All images, ungradable as missed' in page
    whole = example_run(tmp_path/'whole', n=40)
    assert 'of 80 images got no grade' not in ' '.join(plain_words(whole)) and patient_table(whole.metrics).shape[1] == 3

def test_the_threshold_in_force_is_counted_as_it_is_and_marked_once(tmp_path):
    from retina_nb.measure import workload
    from retina_nb.report import decision_table, workload_table
    from retina_nb.report.review import _workload_points
    run = example_run(tmp_path/'r', n=40)
    good = run.metrics
    def with_threshold(at):
        (run.path/'metrics.json').write_text(json.dumps(good | dict(referable=good['referable'] | dict(threshold=at))))
        run.seal()
        return Run(run.path)
    for at, text in ((0, '0'), (.0003, '0.0003'), (.0014, '0.0014'), (.0999999, '0.1'), (.1008, '0.101'), (.3, '0.3'), (.9996, '0.9996'), (1, '1')):
        r = with_threshold(at)
        t = workload_table(r, n_boot=10)
        mine = t[t.Threshold.str.contains('in force')]
        assert mine.Threshold.tolist() == [f'{text} (in force)'] and t.Threshold.is_unique
        near = min(max(at, 1e-9), 1-1e-9)
        assert near in _workload_points(at)[0] # the point itself, and not what is printed of it
        said = workload(r.predictions, [near], n_boot=10).iloc[0]
        assert mine.Referred.iloc[0].split()[0] == f'{said.referred:.0f}' and mine.Missed.iloc[0].split()[0] == f'{said.missed:.0f}'
        at_test = decision_table(r.metrics).set_index('').loc['Threshold'].iloc[0]
        assert at_test.startswith(f'{text}, ')
    assert report(with_threshold(.0003)).is_file()

def test_the_card_looks_whether_a_person_is_in_two_parts(tmp_path):
    from retina_nb.report import model_card
    run = example_run(tmp_path/'r', n=20)
    good = run.records
    def division(records):
        records.to_csv(run.path/'records.csv', index=False)
        run.seal()
        return model_card(Run(run.path)).set_index('')[' ']['Division']
    one, other = (good.patient[good.split == s].iloc[0] for s in ('test', 'valid'))
    assert division(good) == 'by patient: no person is in two parts'
    for blank in ('', 'NA', '-'):
        said = division(good.assign(patient=good.patient.mask(good.index < 7, blank)))
        assert 'no named person' in said and '7 images without a patient may be of anybody' in said
    assert '1 image without a patient' in division(good.assign(patient=good.patient.mask(good.index == 0, '')))
    both = good.assign(patient=good.patient.replace({other: one}))
    assert division(both).startswith('not by patient: 1 patient in more than one part')
    assert division(both.assign(patient=both.patient.mask(good.index == len(good)-1, ''))).endswith('1 image without a patient may be of anybody')
    assert 'no column names them' in division(good.drop(columns='patient'))

def test_two_classes_lead_with_what_fits(tmp_path):
    from retina_nb.report import score_table
    run = example_run(tmp_path/'r', 'pneumonia', n=30)
    lead, names = html.unescape(report_notebook(run).cells[0].source), score_table(run.metrics).Score.tolist()
    assert 'Balanced accuracy' in lead and 'kappa' not in lead.lower() and names[0] == 'Balanced accuracy' and 'Mean absolute error' not in names

def test_cases_and_tags():
    p = example_predictions(100)
    worst = pick_cases(p, get_task('dr'), 5)
    off = (p.grade - p.target).abs()
    assert (worst.grade - worst.target).abs().tolist() == sorted(off, reverse=True)[:5]
    assert (pick_cases(p, get_task('dr'), 5, worst=False).target >= 2).all()
    assert group_tags(p.assign(seed=range(len(p)), note='x', nothing=None)) == ['eye', 'hospital', 'age']
