# bash completion for tunneld.
_tunneld() {
  local word=$2 before=$3 IFS=$'\n'
  # shellcheck disable=SC2207  # a word a line
  case $before in
    --config) compopt -o filenames && COMPREPLY=($(compgen -d -- "$word" && compgen -f -X '!*.y?(a)ml' -- "$word")) ;;
    --run-dir) compopt -o filenames && COMPREPLY=($(compgen -d -- "$word")) ;;
    *) COMPREPLY=($(compgen -W $'--config\n--check\n--run-dir\n--handover\n--help\n--version' -- "$word")) ;;
  esac
}
complete -F _tunneld tunneld
