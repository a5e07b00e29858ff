"""Chaos: the real daemon between the Discord sandbox and a real Synapse, while everything goes wrong that can.

People write on both sides; the daemon is killed between any two instructions and started again; gateways drop,
homeservers stop, webhooks vanish, answers get lost. Then all trouble ends, and once things are quiet both platforms are
read as people read them: the promise of CONTRIBUTING has to hold. The relay's own store judges nothing.
"""
