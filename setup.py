"Package metadata comes from settings.ini, the one place where it is written."
import shlex
from configparser import ConfigParser

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

extras = {k.removesuffix('_requirements'): shlex.split(v) for k,v in cfg.items() if k.endswith('_requirements')}
extras['all'] = sorted({r for name,wanted in extras.items() if name != 'dev' for r in wanted})  # what any user may want

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=open('README.md', encoding='utf-8').read(), long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'Natural Language :: English', 'Typing :: Typed',
                 *(f'Programming Language :: Python :: {v}' for v in ('3', '3.11', '3.12', '3.13'))],
    packages=find_packages(include=['retina_nb*']), python_requires='>=' + cfg['min_python'],
    package_data={'': ['py.typed', '*.pyi', 'static/*', 'templates/*']},  # the panel's front end, the pages, types
    install_requires=shlex.split(cfg['requirements']), extras_require=extras,
    entry_points=dict(console_scripts=cfg['console_scripts'].split(),
                      nbdev=[f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]),
    zip_safe=False)
