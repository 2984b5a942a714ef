# Completion of fathom for fish: fathom completions fish | source
function __fathom_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token --cut-at-cursor)
    for line in (command $words[1] __complete -- $words[2..-1] 2>/dev/null)
        if test "$line" = \t"files"
            __fish_complete_path (commandline --current-token --cut-at-cursor)
        else
            echo $line
        end
    end
end
complete --command fathom --no-files --keep-order --arguments '(__fathom_complete)'
