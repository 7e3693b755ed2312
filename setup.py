# pbr reads setup.cfg; nothing else belongs here.
import setuptools

setuptools.setup(setup_requires=["pbr>=6.1.0"], pbr=True)
