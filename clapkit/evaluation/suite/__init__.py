"""Many tasks, one model, one file: `run_suite` scores whatever data lies under a folder, `compare` reads two of them.

`OUT/suite.json` (format 1), written after each task; two runs on the same data differ in "run" alone:

    format_version  1
    protocol        version, suite (version of what is measured and kept), ties, samples and seed of the intervals
    model           name, space_id, pipeline_id, and what the caller says besides (parameters)
    tasks           name -> entry, in the order of the names
    unopened        name -> why a task could not be scored
    run             time, host, seconds, data_root, versions, fingerprints: what may differ

An entry:

    version, kind, domain, headline, data, licence, documented      of the task
    standard, differences       whether its score may be compared with published ones, and why not
    clips, splits, recordings, classes, digest    of the clips that were scored (`digest`: names and answers)
    seen_in_training            true, false or "unknown"; `seen_clips` is how many (null where unknown)
    results                     name -> `report.Result.to_json()`: zero-shot, zero-shot-ensemble, label-search and
                                nearest-sound for classes; zero-shot, zero-shot-ensemble and label-search for tags;
                                retrieval and retrieval-same-words for captions; where it was asked for, linear-probe,
                                neighbours-probe and few-shot-probe for tasks with folds
    probes_left_out             where probes were asked for: name -> why it could not be made
    controls                    other-sound (the vectors of other clips: text is all there is) and shuffled (the answers
                                of other clips): n, metrics, at_chance
    folds                       fold -> n and metrics, for tasks with folds
    outcomes                    {"file", "sha256"} of what each clip came to (`suite.outcomes`), for paired comparisons

`OUT/arrays/<task>.npz` is for pictures: audio_ND and text_MD (float16, unit rows), names [N] (of the sounds, relative
to run.data_root), texts [M] (class names or captions), and as far as they exist labels [N], confusion_CC (row = truth),
relevant_NC, owners [M] (the clip of each caption). `OUT/vectors/` is the cache (`suite.vectors`) and may be deleted.
"""
