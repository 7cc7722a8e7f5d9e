"""The suite. Property tests have no time limit of their own: on a busy machine it would measure the neighbours."""

from hypothesis import settings

settings.register_profile("pushserver", deadline=None)
settings.load_profile("pushserver")
