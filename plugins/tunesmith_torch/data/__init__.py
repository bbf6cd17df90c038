"""Convert records to token ids with a loss mask, and arrange these in micro-batches.

::

    record           a row of the data
      |                chat_format: run the chat template, find where each answer begins and ends
    exchange         a prompt and an answer, as spans of text
      |                tokenization: encode each span by itself; typed control tokens stay text
      |                tokenized_records: join the exchanges of a row; skip, split or cut long rows
    example          ids, trained, weights: one value for each token
      |                packing: pack or pad examples; shift targets by one
    micro-batch      the input of one forward pass

One row with one question and one answer, in ChatML (LF: a line break), with the mask ``trained``::

    t         0            1    2  3  4          5  6            7         8  9     10
    token     <|im_start|> user LF hi <|im_end|> LF <|im_start|> assistant LF hello <|im_end|>
              |--------------------------- prompt --------------------------| |--- answer ---|
    trained   0            0    0  0  0          0  0            0         0  1     1

Position t predicts token t + 1, so the loss is computed at the positions 8 and 9. Their targets are
``hello`` and ``<|im_end|>``: the model learns the answer and where it ends, but not the question.
The line break that ChatML writes after an answer belongs to the prompt of the next answer.
"""
