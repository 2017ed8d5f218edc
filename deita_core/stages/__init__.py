"""The steps from files to decisions: functions over a Store that compute only missing results.

Every function works without an orchestrator. Each task wraps one call.
"""
