#compdef tunnelctl
# zsh completion for tunnelctl: the program itself says what may follow, the names of networks and peers included.
local line
local -a candidates
for line in "${(@f)$(tunnelctl '[complete]' "tunnelctl ${(j: :)words[2,CURRENT]}" 2>/dev/null)}"; do
  [[ -n $line ]] && candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
done
if (( $#candidates )); then
  _describe -V tunnelctl candidates
else
  _files
fi
