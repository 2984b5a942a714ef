#compdef fathom
# Completion of fathom for zsh: source <(fathom completions zsh), or as _fathom in a folder of $fpath
_fathom() {
    local line word
    local -a words_here folders files
    words_here=("${(@Q)words[2,CURRENT]}")
    for line in "${(@f)$("${(Q)words[1]/#\~/$HOME}" __complete -- "${words_here[@]}" 2>/dev/null)}"; do
        word=${line%%$'\t'*}
        if [[ $line == $'\tfiles' ]]; then
            _files
        elif [[ $word == */ ]]; then
            folders+=("$word")
        elif [[ -n $word ]]; then
            files+=("${word//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( $#files )) && _describe -V fathom files
    (( $#folders )) && compadd -S '' -- "${folders[@]}"
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _fathom "$@"
else
    compdef _fathom fathom
fi
