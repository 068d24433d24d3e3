"""The parts of a candidate's score, one file each: what they keep, what they add, how they are counted in."""
