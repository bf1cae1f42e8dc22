"Hands the requirement lists of settings.ini to setuptools; all else about the package stands in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser()
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
reqs = {k: v.split() for k,v in cfg['DEFAULT'].items()}
setup(install_requires=reqs.pop('requirements'), extras_require={k.removesuffix('_requirements'): v for k,v in reqs.items()})
