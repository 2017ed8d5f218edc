"""The steps from files to decisions, each a function over a Store that does only what is missing from it.

Every function here works without an orchestrator; the tasks wrap one call each.
"""
