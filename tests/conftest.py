"How many examples the property-based tests try: few by default, the same each time; many and new ones under HYPOTHESIS_PROFILE=fuzz."
import os
from hypothesis import HealthCheck, settings

common = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture])
settings.register_profile('quick', max_examples=30, derandomize=True, database=None, **common)
settings.register_profile('fuzz', max_examples=2000, **common)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'quick'))
