"""The surprise gate: is this tubelet new enough to be worth encoding?"""
