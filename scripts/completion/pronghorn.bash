# Completion of pronghorn(8) for bash: /usr/share/bash-completion/completions/pronghorn
_pronghorn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    # Readline treats the "=" of --format=json as a word of its own.
    if [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $word == = ]]; then
        word=
    fi
    COMPREPLY=()
    case $before in
        ctl)
            mapfile -t COMPREPLY < <(compgen -W 'list add set weigh drain disable enable remove keyval connections end diff processes reload
                status help' -- "$word")
            return
            ;;
        -s)
            mapfile -t COMPREPLY < <(compgen -W 'stop quit reopen reload' -- "$word")
            return
            ;;
        --format)
            mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$word")
            return
            ;;
        -p)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$word")
            return
            ;;
        -c | -e | -l | --convert)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        -g | --listen | --upstream) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W '-? -h -v -V -t -T -q -s -p -e -c -g -l ctl top
        --effective --resources --format= --strict --convert --pid-path --listen --upstream' -- "$word")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _pronghorn pronghorn
