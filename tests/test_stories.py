"What a reader copies from a story's page, top to bottom, runs: its visible cells alone, in a fresh process and an empty folder."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
stories = sorted(o for o in (root/'nbs').glob('[a-z]*.ipynb'))
unseen = re.compile(r'^#\|\s*(hide|include:\s*false|echo:\s*false|eval:\s*false|network|slow|cuda)\s*$', re.M)

def visible(nb):
    "The notebook without the cells that a reader doesn't see, or that are not run"
    book = json.loads(nb.read_text(encoding='utf-8'))
    book['cells'] = [c for c in book['cells'] if c['cell_type'] == 'code' and not unseen.search(''.join(c['source']))]
    return book

@pytest.mark.skipif(not os.environ.get('SLOW'), reason='takes minutes: SLOW=1 runs the visible cells of every story')
@pytest.mark.parametrize('nb', stories, ids=lambda o: o.stem)
def test_visible_cells_run_alone(nb, tmp_path):
    (tmp_path/nb.name).write_text(json.dumps(visible(nb)), encoding='utf-8')
    (tmp_path/'results').symlink_to(root/'nbs/results')
    cmd = [Path(sys.executable).parent/'exec_nb', nb.name, '--dest', 'done.ipynb', '--exc-stop']
    env = dict(os.environ, PNEUMO_CACHE=str(tmp_path/'cache'), OMP_NUM_THREADS='1', MPLBACKEND='agg')
    res = subprocess.run(cmd, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:] + res.stdout[-2000:]
