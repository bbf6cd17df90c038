"""Training on preference pairs: DPO, IPO, KTO, ORPO and SimPO."""
