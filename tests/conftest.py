"What files of tests share; how many examples the property-based ones try: few, the same each time, or many under HYPOTHESIS_PROFILE=fuzz."
import os
import numpy as np, pandas as pd, pytest
from PIL import Image
from hypothesis import HealthCheck, settings

common = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture])
settings.register_profile('quick', max_examples=30, derandomize=True, database=None, **common)
settings.register_profile('fuzz', max_examples=2000, **common)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'quick'))

@pytest.fixture(scope='module')
def noise(tmp_path_factory):
    "A function that makes a table of sixty small images of noise, 44 train, 16 valid; one in so many is a b, the others are a"
    from pneumo_imbalance.data import read_table
    def images(every):
        d, rng = tmp_path_factory.mktemp('noise'), np.random.default_rng(0)
        paths = [str(d/f'p{i}.png') for i in range(60)]
        for o in paths: Image.fromarray(rng.integers(0, 255, (16, 16), 'u1')).save(o)
        labels, splits = ['a' if i % every else 'b' for i in range(60)], ['train']*44 + ['valid']*16
        return read_table(pd.DataFrame(dict(path=paths, label=labels, split=splits, patient=range(60))))
    return images

@pytest.fixture
def one_thread(tmp_path, monkeypatch):
    "A cache of its own, no bars, and one thread, so that a fork of this process can compute"
    import torch
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('IN_TEST', '1')
    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)
