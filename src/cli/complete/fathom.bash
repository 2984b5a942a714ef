# Completion of fathom for bash: source <(fathom completions bash)
_fathom() {
    local i word before rest=$COMP_LINE line cur prefix quoted=
    local -a words=()
    # bash parts words at colons and equals signs, which names of models and values have within.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        before=${rest%%[![:space:]]*}
        rest=${rest#"$before"}
        rest=${rest#"$word"}
        if [[ $i -gt 0 && -z $before && ( -n $word || ${COMP_LINE:COMP_POINT-1:1} != [[:space:]] ) ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
    cur=${words[${#words[@]} - 1]}
    # Within quotes nothing is escaped.
    [[ $cur == [\"\']* ]] && quoted=1
    words=("${words[@]//[\\\"\']/}")
    cur=${words[${#words[@]} - 1]}
    prefix=
    [[ $cur == *[:=]* && $COMP_WORDBREAKS == *:* ]] && prefix=${cur%"${cur##*[:=]}"}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == $'\tfiles' ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do
                COMPREPLY+=("$word")
            done < <(compgen -f -- "${cur#"$prefix"}")
            continue
        fi
        word=${line%%$'\t'*}
        word=${word#"$prefix"}
        # What ends in a slash goes on.
        [[ $word == */ ]] && compopt -o nospace 2>/dev/null
        [[ -z $quoted && $word == *[!A-Za-z0-9._:/@%+,=~-]* ]] && printf -v word %q "$word"
        COMPREPLY+=("$word")
    done < <("${words[0]/#\~/$HOME}" __complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _fathom fathom
