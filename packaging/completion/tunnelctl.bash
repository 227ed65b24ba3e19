# bash completion for tunnelctl: the program itself says what may follow, the names of networks and peers included.
_tunnelctl() {
  local line=${COMP_LINE:0:COMP_POINT} IFS=$'\n'
  # shellcheck disable=SC2207  # a word a line
  COMPREPLY=($(tunnelctl '[complete]' "tunnelctl${line#*"${COMP_WORDS[0]}"}" 2>/dev/null | cut -f 1))
}
complete -o default -F _tunnelctl tunnelctl
