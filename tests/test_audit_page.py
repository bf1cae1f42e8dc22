"The command `pneumo-audit`: any tree, one sentence and an exit code for each ending, a page that holds nothing but what we wrote."
import os, re, shutil, signal, subprocess, sys
from pathlib import Path
from xml.etree import ElementTree
import numpy as np, pandas as pd, pytest
from PIL import Image
from pneumo_imbalance import audit_page, faults
from pneumo_imbalance.audit_page import audit_html, junit_xml, pneumo_audit
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.faults import CHECKS, audit_archive
from pneumo_imbalance.phantom import make_phantoms
from test_study import Page, attrs, tags

markup = '<img src=x onerror=alert(1)>'

def check_page(file):
    "A page without script, without links, and without a picture that is not its own"
    page = Page(file)
    assert not set(page.tags) - tags - {'b', 'code'} and not {k for k,_ in page.attrs} - attrs
    assert all(re.match('data:image/(png|jpeg);base64,', v) for k,v in page.attrs if k == 'src')
    assert any(k == 'content' and v.startswith("default-src 'none'; ") and 'script-src' not in v for k,v in page.attrs)
    assert 'could not be made' not in page.text
    return page

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Phantoms; two training images stand in test too, one image has two labels"
    counts = dict(train=dict(NORMAL=16, PNEUMONIA=30), test=dict(NORMAL=10, PNEUMONIA=10))
    root = make_phantoms(tmp_path_factory.mktemp('images')/'xray', counts, size=64)
    first, second, third = sorted((root/'train/NORMAL').iterdir())[:3]
    for o in (first, second): shutil.copy(o, root/'test/NORMAL'/f'{o.stem}-again.jpeg')
    shutil.copy(third, root/'train/PNEUMONIA'/f'{third.stem}-again.jpeg')
    return root

@pytest.fixture(scope='module', autouse=True)
def once():
    "A table that was judged before is not judged again, for the command is tried on the same images many times"
    judged, audit = {}, faults.audit
    def kept(df, *args):
        key = df.to_json(), args
        if key not in judged: judged[key] = audit(df, *args)
        return judged[key]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(faults, 'audit', kept)
        yield

@pytest.fixture(scope='module')
def found(images): return audit_archive(images)

def run(capsys, *args):
    "Exit code, what was printed, and the last line of stderr"
    code = pneumo_audit(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, (err.strip().splitlines() or [''])[-1]

# Endings

def test_findings_and_page(images, tmp_path, capsys):
    code, out, err = run(capsys, images, '--out', tmp_path/'a.html')
    page = check_page(tmp_path/'a.html')
    assert code == 0 and err == ''
    for k in ('leaks', 'conflicts'): assert f'[{k}]' in out and f'{k}: ' in page.text
    assert '2 of 22 test images (9 %) have a copy in an earlier split.' in page.text and 'the same bytes' in page.text

@pytest.mark.parametrize('checks,code', [(['leaks'], 1), (['conflicts', 'shift'], 1), (['files'], 0), (['files', 'leaks'], 1)])
def test_fail_on(images, tmp_path, capsys, checks, code):
    ended, out, err = run(capsys, images, '--out', tmp_path/'a.html', '--no-pictures', '--fail-on', *checks)
    assert ended == code and (tmp_path/'a.html').exists()
    assert not code or err.startswith('pneumo-audit: found what --fail-on names: ')

def test_fail_on_may_be_repeated(images, tmp_path, capsys):
    args = [images, '--out', tmp_path/'a.html', '--fail-on', 'files', '--fail-on', 'conflicts']
    assert run(capsys, *args)[0] == 1

def test_no_file_is_replaced(images, tmp_path, capsys):
    page, tests = tmp_path/'a.html', tmp_path/'a.xml'
    for o in (page, tests): o.write_text('mine')
    assert run(capsys, images, '--out', page)[0] == 2
    assert run(capsys, images, '--out', tmp_path/'b.html', '--junit', tests)[0] == 2
    assert {o.read_text() for o in (page, tests)} == {'mine'} and not (tmp_path/'b.html').exists()
    assert run(capsys, images, '--out', page, '--junit', tests, '--overwrite')[0] == 0
    assert page.read_text().startswith('<!doctype html>') and tests.read_text().startswith('<?xml')

def test_out_is_a_folder(images, tmp_path, capsys):
    code, _, err = run(capsys, images, '--out', tmp_path)
    assert code == 2 and 'name a file in it' in err

def test_folders_are_made(images, tmp_path, capsys):
    assert run(capsys, images, '--out', tmp_path/'new/deep/a.html', '--no-pictures')[0] == 0
    assert [o.name for o in (tmp_path/'new/deep').iterdir()] == ['a.html']

@pytest.mark.parametrize('make,says', [(lambda o: o.mkdir(), 'found none'), (lambda o: None, 'found nothing'),
    (lambda o: o.write_text('a'), 'found a file')], ids=['empty', 'nowhere', 'file'])
def test_wrong_input(tmp_path, capsys, make, says):
    make(tmp_path/'data')
    code, _, err = run(capsys, tmp_path/'data', '--out', tmp_path/'a.html')
    assert code == 2 and err.startswith('pneumo-audit: expected') and says in err and not (tmp_path/'a.html').exists()

def test_broken_files(tmp_path, capsys):
    (tmp_path/'data/NORMAL').mkdir(parents=True)
    for i in range(3): (tmp_path/f'data/NORMAL/{i}.png').write_bytes(b'\x89PNG broken')
    code, out, err = run(capsys, tmp_path/'data', '--out', tmp_path/'a.html')
    assert code == 2 and 'none that can be used among 3 files' in err and "3 of 3 files can't be used" in out

def test_some_broken_files(images, tmp_path, capsys):
    shutil.copytree(images, tmp_path/'data')
    (tmp_path/'data/train/NORMAL/x.jpeg').write_bytes(b'broken')
    code, out, err = run(capsys, tmp_path/'data', '--out', tmp_path/'a.html', '--no-pictures', '--fail-on', 'files')
    assert code == 1 and "can't be used" in out and 'names: files' in err

def test_unknown_check_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as e: pneumo_audit(['data', '--fail-on', 'everything'])
    assert e.value.code == 2 and 'invalid choice' in capsys.readouterr().err

def test_help_names_every_check(capsys):
    with pytest.raises(SystemExit) as e: pneumo_audit(['--help'])
    text = capsys.readouterr().out
    assert e.value.code == 0 and all(o in text for o in ('--fail-on', '--junit', '--csv', '--patient', '--overwrite', *CHECKS))

def test_interrupted(images, tmp_path):
    hear = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)'
    slow = 'from pneumo_imbalance import audit_page; import time; '
    slow += 'audit_page.audit_archive = lambda *o: (print("at work", flush=True), time.sleep(60))'
    args = [str(images), '--out', str(tmp_path/'a.html')]
    p = subprocess.Popen([sys.executable, '-c', f'{hear}; {slow}; sys.exit(audit_page.pneumo_audit({args!r}))'], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, TQDM_DISABLE='1'))
    assert p.stdout.readline() == 'at work\n'
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'interrupted; nothing was written' in err and 'Traceback' not in err
    assert not list(tmp_path.iterdir())

# The test report

def test_junit(images, tmp_path, capsys):
    run(capsys, images, '--out', tmp_path/'a.html', '--no-pictures', '--junit', tmp_path/'a.xml', '--fail-on', 'leaks', 'files')
    suite = ElementTree.parse(tmp_path/'a.xml').getroot()
    kind = {o.get('name'): [p.tag for p in o] for o in suite}
    assert list(kind) == list(CHECKS) and suite.get('tests') == str(len(CHECKS)) and suite.get('failures') == '1'
    assert kind['leaks'] == ['failure'] and kind['conflicts'] == ['system-out'] and kind['files'] == []

def test_junit_takes_any_name(found):
    found.findings.loc[len(found.findings)] = ['odd', 0, f'{markup}\x00\x1b]]> ä 肺', '']
    text = ElementTree.fromstring(junit_xml(found, ['odd'])).find('testcase[@name="odd"]/failure').text
    found.findings = found.findings.iloc[:-1]
    assert markup in text and '\x00' not in text

def test_flat_tree_skips_what_needs_splits(images, tmp_path, capsys):
    shutil.copytree(images/'train', tmp_path/'flat')
    code, out, _ = run(capsys, tmp_path/'flat', '--out', tmp_path/'a.html', '--junit', tmp_path/'a.xml', '--fail-on', 'leaks', 'shift')
    skipped = {o.get('name') for o in ElementTree.parse(tmp_path/'a.xml').getroot() if o.find('skipped') is not None}
    assert code == 0 and {'leaks', 'shift'} <= skipped and 'Not checked: leaks (there is only one split).' in out
    assert '[conflicts]' in out and 'A random split of the images' in check_page(tmp_path/'a.html').text

# What is found

def test_many_classes(images, tmp_path):
    df = scan_images(images)
    for k in (3, 20):
        a = audit_archive(df.assign(label=[f'class {i%k}' for i in range(len(df))]))
        page, failed = audit_html(a)
        assert not failed and len(a.sheet.by_class.index.levels[1]) == k

def test_one_class_one_image_and_no_patients(images):
    df = scan_images(images)
    for some in (df[df.label == 'NORMAL'], df.head(1), df.drop(columns='patient'), df.assign(split='test'), pd.concat([df, df])):
        a = audit_archive(some.sample(frac=1, random_state=0))
        assert audit_html(a)[1] == [] and ElementTree.fromstring(junit_xml(a)).get('tests') == str(len(CHECKS))

def test_names_of_any_kind(images, tmp_path, capsys):
    root = tmp_path/'data'
    for split in ('train', 'test'):
        for label,real in ((markup, 'NORMAL'), ('$"><script>$', 'PNEUMONIA')):
            if os.name == 'nt': pytest.skip('names that Windows refuses')
            (root/split/label.replace('/', '')).mkdir(parents=True)
            for o in (images/split/real).iterdir(): shutil.copy(o, root/split/label.replace('/', '')/f'<b>{o.name}')
    code, _, err = run(capsys, root, '--out', tmp_path/'a.html')
    page = check_page(tmp_path/'a.html')
    assert code == 0 and markup in page.text and '<script' not in (tmp_path/'a.html').read_text(encoding='utf-8')

def test_names_that_are_no_utf8(images, tmp_path, capsys):
    shutil.copytree(images, tmp_path/'data')
    try: (tmp_path/'data/train/NORMAL'/os.fsdecode(b'\xff.jpeg')).write_bytes(b'x')
    except OSError: pytest.skip('this file system has no such names')
    assert run(capsys, tmp_path/'data', '--out', tmp_path/'a.html')[0] == 0

def test_patients_by_a_rule_or_an_archive_s_name(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for c in 'ab':
        (tmp_path/'data'/c).mkdir(parents=True)
        for i in range(12):
            im = Image.fromarray(rng.integers(0, 255, (64, 64), 'uint8'))
            im.save(tmp_path/'data'/c/f'{"ab".index(c)*100 + i//3:08}_{i%3:03}.png')
    assert '8 patients among 24 images' in run(capsys, tmp_path/'data', '--out', tmp_path/'1.html')[1]
    for i,o in enumerate((r'_(\d{3})$', 'NIH ChestX-ray14'), 2):
        assert run(capsys, tmp_path/'data', '--patient', o, '--out', tmp_path/f'{i}.html')[0] == 0
    assert '3 patients' in check_page(tmp_path/'2.html').text and '8 patients' in check_page(tmp_path/'3.html').text

# Tables

def test_csv_files(images, tmp_path, capsys):
    df = scan_images(images)
    rows = pd.DataFrame(dict(file=[str(Path(o).relative_to(images)) for o in df.path], finding=df.label, who=df.patient))
    for s in ('train', 'test'): rows[(df.split == s).to_numpy()].to_csv(tmp_path/f'{s}_labels.csv', index=False)
    args = [images, '--csv', tmp_path/'train_labels.csv', tmp_path/'test_labels.csv', '--out', tmp_path/'a.html', '--no-pictures']
    code, _, err = run(capsys, *args)
    assert code == 2 and "column 'path'" in err
    code, out, _ = run(capsys, *args, '--columns', 'path=file', 'label=finding', 'patient=who')
    assert code == 0 and '[leaks] 2 of 22 test images' in out
    code, _, err = run(capsys, *args, '--overwrite', '--columns', 'sex=Sex')
    assert code == 2 and "found 'sex'" in err

def test_a_part_that_fails_is_said(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit_page, 'plot_audit', lambda o: 1/0)
    code, _, err = run(capsys, images, '--out', tmp_path/'a.html')
    assert code == 1 and 'parts of the page could not be made: Picture' in err and (tmp_path/'a.html').exists()
