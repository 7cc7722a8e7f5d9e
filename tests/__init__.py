"""The suite. Property tests have no time limit of their own: on a busy machine it would measure the neighbours."""

from hypothesis import HealthCheck, settings

settings.register_profile("pushserver", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pushserver")
