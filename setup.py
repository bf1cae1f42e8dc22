"Hands setuptools what stands in other files: the requirement lists of settings.ini, and README.md with links that work anywhere."
import re, tomllib
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

root = Path(__file__).parent
cfg = ConfigParser()
cfg.read(root/'settings.ini', encoding='utf-8')
reqs = {k: v.split() for k,v in cfg['DEFAULT'].items()}
repo = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))['project']['urls']['Repository']
readme = (root/'README.md').read_text(encoding='utf-8')
for start,place in ((r'(!\[[^\]]*\]\()', 'raw'), (r'((?<!!)\[[^\]]*\]\()', 'blob')):
    readme = re.sub(start + r'(?!https?:|mailto:|#)', rf'\1{repo}/{place}/main/', readme)
setup(install_requires=reqs.pop('requirements'), extras_require={k.removesuffix('_requirements'): v for k,v in reqs.items()},
    long_description=readme, long_description_content_type='text/markdown')
