"""Estimate the memory and compute of a run before loading any weights.

The components, and when each is in memory (``=`` all of it, ``<`` growing, ``>`` shrinking)::

    component      load     | forward   head   backward   optimizer |  evaluate
    -------------------------------------------------------------------------------------
    weights        <<<<<<<<<|=======================================|==========
    weight files   =========|                                       |
    adapter                 |=======================================|==========  adapters only
    masters                 |=======================================|            full, bf16 only
    optimizer               |=======================================|            from step 1 on
    gradients               |(=======)(====) <<<<<<<<<<<<===========|            see below
    activations             |<<<<<<<<<====== >>>>>>>>>>>>           |=====
    logits                  |          ====                         |=====
    temporaries             |====      ====  ============           |
    key-value cache         |                                       |==========  of answers
    framework      =========|=======================================|==========  libraries
    fragmentation           |=======================================|==========  allocator's gaps

Gradients exist during the forward pass only if a batch has several micro-batches. A step has its
peak at the end of the forward pass, with all activations and the logits, or at the end of the
backward pass, with all gradients and one layer's temporaries. Gradient checkpointing keeps only
the input of each layer as activations, and computes one layer again during the backward pass.

Two estimates are made. The first comes from arithmetic on the model's config (``analytic``), in
about a millisecond. The second replaces its training step with a traced one (``traced``): the step
runs on fake tensors, which have a shape but no data (``trace``), and its allocations are replayed
(``allocator_replay``). Technique offers call the functions in ``techniques`` and ``policies``.
Importing this package does not import torch; only ``trace`` and the modules that it needs import
torch.
"""
