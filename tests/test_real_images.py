"The modules on the real images, where the environment variable CHEST_XRAY (default ../shared/chest_xray) leads to them."
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import ImageEnhance
from pneumo_imbalance.copies import near_duplicates
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.data import class_counts, imbalance_ratio, read_table, scan_images
from pneumo_imbalance.image import open_image
from pneumo_imbalance.sampling import BalancedSampler, oversample
from pneumo_imbalance.split import split_valid

images = Path(os.environ.get('CHEST_XRAY', Path(__file__).parents[1]/'../shared/chest_xray'))
why = f'no real images at {images}: set CHEST_XRAY to the folder that holds train and test'
pytestmark = pytest.mark.skipif(not images.is_dir(), reason=why)

@pytest.fixture(scope='module')
def df(): return scan_images(images)

def test_counts(df):
    counts = class_counts(df)
    assert counts.loc['train', ['NORMAL', 'PNEUMONIA']].tolist() == [1341, 3875]
    assert counts.loc['test', ['NORMAL', 'PNEUMONIA']].tolist() == [234, 390]
    assert (df.problem == '').all()
    assert round(imbalance_ratio(df), 2) == 2.89

def test_patients(df):
    per_split = {s: set(df.patient[df.split == s]) for s in ('train', 'test')}
    n = df.patient.value_counts()
    assert not per_split['train'] & per_split['test']
    assert n.max() == 30

def test_wrong_patient_key(df):
    "Persons are counted anew for each cause: by their number alone, 170 of the 202 that test seems to have stand in train too"
    number = df.path.str.extract(r'(person\d+)_')[0]
    train, test = (set(number[df.split == s].dropna()) for s in ('train', 'test'))
    assert (len(test), len(train & test)) == (202, 170)

def test_split_by_patient(df):
    out = split_valid(df, valid_pct=.2)
    valid, train, test = (out[out.split == s] for s in ('valid', 'train', 'test'))
    assert not set(valid.patient) & set(train.patient)
    assert test.equals(df[df.split == 'test'])
    assert abs(len(valid)/5216 - .2) < .002
    assert abs((valid.label == 'NORMAL').mean() - 1341/5216) < .005

def test_oversampling(df):
    assert class_counts(oversample(df, copies=3)).loc['train', 'NORMAL'] == 4023
    assert class_counts(oversample(df)).loc['train', ['NORMAL', 'PNEUMONIA']].tolist() == [3875, 3875]
    assert len(list(BalancedSampler(df[df.split == 'train']))) == 2*3875

def test_archive_does_not_leak(df):
    report = check_leaks(df)
    assert report.ok and set(report.table.kind) <= {'copies inside'}

def test_identical_groups(df):
    groups = df.groupby('digest').split.agg(['size', 'nunique', 'first']).query('size > 1')
    assert (groups['nunique'] == 1).all()
    assert groups['first'].value_counts()[['train', 'test']].tolist() == [24, 6]
    inside = check_leaks(df).table.query("kind == 'copies inside'")
    assert len(inside) == (groups['size'] - 1).sum()
    assert (inside.split_a == inside.split_b).all()

def disguised(path, dest, seed):
    "Write an image to `dest` trimmed, resized, brightened, converted and re-encoded"
    rng, im = np.random.default_rng(seed), open_image(path)
    (w, h), (l, t, r, b) = im.size, rng.uniform(0, .03, 4)
    im = im.crop((int(l*w), int(t*h), w - int(r*w), h - int(b*h)))
    im = im.resize(tuple(round(o*s) for s in [rng.uniform(.5, 2)] for o in im.size), seed%3 + 1)
    im = ImageEnhance.Brightness(im).enhance(rng.uniform(.7, 1.3)).convert('RGB' if seed%2 else 'L')
    im.save(dest, quality=int(rng.integers(60, 96)))

def test_planted_leaks(df, tmp_path):
    "Of 500 test images planted in train in disguise, 99 % are found, and at most a handful of pairs that are no copies"
    test = df[df.split == 'test'].sample(500, random_state=1)
    names = [tmp_path/f'{i}.jpeg' for i in range(len(test))]
    with ThreadPoolExecutor() as ex: list(ex.map(disguised, test.path, names, range(len(test))))
    planted = read_table(pd.DataFrame(dict(path=map(str, names), label=test.label.astype(str), split='train')))
    found = near_duplicates(pd.concat([df.astype(dict(label=str)), planted], ignore_index=True))
    original = {o.path: o.path for o in df.itertuples()} | dict(zip(map(str, names), test.path))
    digest = df.set_index('path').digest
    a, b = (found[k].map(original).map(digest) for k in ('path_a', 'path_b'))
    caught = set(found.path_a[a == b]) | set(found.path_b[a == b])
    assert len(caught & set(map(str, names))) >= .99*len(names)
    assert (a != b).sum() <= 5
