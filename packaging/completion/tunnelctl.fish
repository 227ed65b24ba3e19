# fish completion for tunnelctl: the program itself says what may follow, the names of networks and peers included.
complete -c tunnelctl -f -a "(tunnelctl '[complete]' (commandline -cp) 2>/dev/null)"
complete -c tunnelctl -l socket -r -F
complete -c tunnelctl -l run-dir -x -a '(__fish_complete_directories)'
