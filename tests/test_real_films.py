"The rooms on the real films, where the environment variable CHEST_XRAY (default ../shared/chest_xray) leads to them."
import os
from pathlib import Path
import pytest
from pneumo_imbalance.data import class_counts, imbalance_ratio, scan_images
from pneumo_imbalance.sampling import BalancedSampler, oversample
from pneumo_imbalance.split import split_valid

films = Path(os.environ.get('CHEST_XRAY', Path(__file__).parents[1]/'../shared/chest_xray'))
pytestmark = pytest.mark.skipif(not films.is_dir(), reason=f'no real films at {films}: set CHEST_XRAY to the folder that holds train and test')

@pytest.fixture(scope='module')
def df(): return scan_images(films)

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
