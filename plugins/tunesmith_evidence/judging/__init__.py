"""Judge answers in pairs by a language model, in both orders, and check the judge by anchors."""
