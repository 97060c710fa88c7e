"""The steps of every open move: asked for again until tailscaled takes it, then proven. Pure."""

from __future__ import annotations

from dataclasses import replace

from tsstack.monitor.choice import (
    DIRECT,
    PROOF_S,
    TAKE_S,
    Action,
    Decision,
    FreeFlows,
    GoDirect,
    Move,
    Proof,
    ProveEgress,
    UseExit,
)
from tsstack.monitor.turn import Turn

AGAIN_S = 4.0
"""A request has come to pass after so long, or has failed (it takes 3 s at most)."""


def proof_of(turn: Turn, move: Move) -> Proof | None:
    """What the proof of this very move says; None while it says nothing."""
    proof = turn.facts.proof
    return proof if proof is not None and proof.move == move.number else None


def left_s(turn: Turn, move: Move) -> float:
    """How long a move may yet take: until tailscaled has it, then until its proof, seconds."""
    until_s = move.started_s + TAKE_S if move.taken_s is None else move.taken_s + PROOF_S
    return until_s - turn.now_s


def set_again(node: str) -> Action:
    """The request for what was decided before."""
    return GoDirect(0) if node == DIRECT else UseExit(node, 0)


def asked_again(turn: Turn, move: Move) -> tuple[Move, tuple[Action, ...]]:
    """A move that tailscaled has not taken: the request may have been lost with it, so it is made again."""
    if move.sent_s is not None and turn.now_s - move.sent_s < AGAIN_S:
        return move, ()
    free = () if move.retry else (FreeFlows(move.left),)
    return replace(move, sent_s=turn.now_s), (set_again(move.to), *free)


def begin_again(move: Move | None, now_s: float) -> Move | None:
    """Nobody looked after the move until now: its time runs from here, and it is proven anew."""
    return move and replace(move, started_s=now_s, taken_s=None, sent_s=None)


def prove(turn: Turn, move: Move) -> Decision:
    """tailscaled has taken the node: the proof is due."""
    taken = replace(turn.state, move=replace(move, taken_s=turn.now_s))
    proof = ProveEgress(move.to, move.number, turn.now_s + PROOF_S)
    return turn.stay("waiting", state=taken, wait_s=PROOF_S, actions=(proof,))
